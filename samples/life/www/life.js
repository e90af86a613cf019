// The field is a torus; `ages` holds 0 for a dead cell, else how many generations it has lived.
const CELL = 10;
const canvas = document.getElementById("field");
const brush = canvas.getContext("2d");
let columns, rows, ages, generation = 0, running = true;

function resize() {
  canvas.width = canvas.clientWidth;
  canvas.height = canvas.clientHeight;
  columns = Math.max(8, Math.floor(canvas.width / CELL));
  rows = Math.max(8, Math.floor(canvas.height / CELL));
  ages = new Uint16Array(columns * rows);
}

const at = (column, row) => ((row + rows) % rows) * columns + (column + columns) % columns;

function neighbours(column, row) {
  let count = 0;
  for (const down of [-1, 0, 1])
    for (const right of [-1, 0, 1])
      if ((down || right) && ages[at(column + right, row + down)]) count++;
  return count;
}

function step() {
  const next = new Uint16Array(ages.length);
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) {
      const age = ages[at(column, row)], count = neighbours(column, row);
      if (count === 3 || (age && count === 2)) next[at(column, row)] = Math.min(age + 1, 999);
    }
  ages = next;
  generation++;
}

function draw() {
  brush.fillStyle = "#0e0f1a";
  brush.fillRect(0, 0, canvas.width, canvas.height);
  ages.forEach((age, index) => {
    if (!age) return;
    brush.fillStyle = `hsl(${Math.max(200, 320 - age * 3)} 85% ${Math.max(45, 75 - age)}%)`;
    brush.fillRect(index % columns * CELL + 1, Math.floor(index / columns) * CELL + 1, CELL - 2, CELL - 2);
  });
  const alive = ages.reduce((sum, age) => sum + (age > 0), 0);
  document.getElementById("count").textContent = `generation ${generation} · ${alive} alive`;
}

function place(cells) {
  const width = Math.max(...cells.map(([column]) => column)), height = Math.max(...cells.map(([, row]) => row));
  const left = Math.floor((columns - width) / 2), top = Math.floor((rows - height) / 2);
  for (const [column, row] of cells) ages[at(left + column, top + row)] = 1;
  draw();
}

function clear() {
  ages.fill(0);
  generation = 0;
  draw();
}

const patterns = await (await fetch("patterns.json")).json();
for (const [name, cells] of Object.entries(patterns)) {
  const button = document.createElement("button");
  button.textContent = name;
  button.onclick = () => { clear(); place(cells); };
  document.getElementById("patterns").append(button, " ");
}

document.getElementById("clear").onclick = clear;
document.getElementById("pause").onclick = event => {
  running = !running;
  event.target.textContent = running ? "Pause" : "Run";
};
canvas.onpointerdown = canvas.onpointermove = event => {
  if (!event.buttons) return;
  ages[at(Math.floor(event.offsetX / CELL), Math.floor(event.offsetY / CELL))] = 1;
  draw();
};
addEventListener("resize", () => { resize(); place(patterns.Acorn); });

resize();
place(patterns["Gosper gun"]);
setInterval(() => { if (running) { step(); draw(); } }, 90);
