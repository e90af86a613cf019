"""What may be asked of `/sql/read`: one SELECT over the caller's datasets and functions that are known to be harmless.

A statement is judged by the syntax tree that DuckDB's own parser makes of it. Whatever is not listed here is refused:
node, table, function. Names of tables are resolved as DuckDB does, a common table expression before a view.
"""

import json
import string
from collections.abc import Collection
from importlib.resources import files
from typing import Any

import duckdb

from apphub_assets.timestore.errors import InvalidSql, SqlNotAllowed, SqlUnknownDataset

MAX_LENGTH = 10_000

FUNCTIONS = frozenset(
    name
    for line in files("apphub_assets.timestore.sql").joinpath("functions.txt").read_text().splitlines()
    if not line.startswith("#")
    for name in line.split()
)
TABLE_FUNCTIONS = frozenset({"range", "generate_series", "unnest", "json_each", "json_tree"})
# DuckDB's parser itself writes `main` before some: EXTRACT, TRIM, list comprehensions.
FUNCTION_SCHEMAS = {"", "main"}

EXPRESSIONS = {
    "BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "DEFAULT", "FUNCTION",
    "LAMBDA", "LAMBDA_REF", "OPERATOR", "PARAMETER", "POSITIONAL_REFERENCE", "STAR", "SUBQUERY", "TYPE", "WINDOW",
}  # fmt: skip
NODES = {
    # queries
    "SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE",
    # what FROM may name; DESCRIBE, SHOW and SUMMARIZE are SHOW_REF, and no SELECT
    "BASE_TABLE", "EMPTY", "EXPRESSION_LIST", "JOIN", "PIVOT", "SUBQUERY", "TABLE_FUNCTION",
    # ORDER BY, LIMIT, DISTINCT
    "ORDER_MODIFIER", "LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER", "DISTINCT_MODIFIER",
    "ORDER_DEFAULT", "ASCENDING", "DESCENDING",
}  # fmt: skip

NAMES = {"SHOW_REF": "SHOW, DESCRIBE and SUMMARIZE are"}
HINT = "read a dataset by SELECT … FROM, and its columns by GET /sql/schema"
# As DuckDB compares names. Python's `lower` also makes a k of the Kelvin sign, and so another name.
FOLDING = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)

Json = dict[str, Any]
Scope = frozenset[str]


def parse(connection: duckdb.DuckDBPyConnection, sql: str) -> Json:
    """The syntax tree of the one SELECT that `sql` must be, as `json_serialize_sql` gives it.

    Python's recursion limit decides how deeply it may be nested.

    Raises:
        InvalidSql: it is no SQL, nothing, or more than one statement.
        SqlNotAllowed: it is another statement than SELECT.
    """
    found = connection.execute("SELECT json_serialize_sql(?, skip_null := true, skip_default := true)", [sql])
    try:
        tree: Json = json.loads((found.fetchone() or ("",))[0])
    except RecursionError:
        raise InvalidSql("the statement is nested too deeply; write it with fewer brackets") from None
    if tree["error"] and tree["error_message"].startswith("Only SELECT"):
        raise SqlNotAllowed(
            "only SELECT, WITH … SELECT and VALUES can be read here; a PIVOT has to be in FROM and name its values"
        )
    if tree["error"]:
        # The parser counts characters, whereas nodes know their place in bytes.
        raise InvalidSql(tree["error_message"], position=int(tree["position"]) if "position" in tree else None)
    statements: list[Json] = tree["statements"]
    if len(statements) != 1:
        raise InvalidSql(f"there are {len(statements)} statements; send exactly one SELECT")
    return statements[0]


def check(statement: Json, datasets: Collection[str], sql: str = "") -> set[str]:
    """The slugs of the datasets that a statement reads.

    Args:
        statement: as `parse` gives it.
        datasets: slugs of those that may be read.
        sql: its text, for positions.

    Raises:
        SqlNotAllowed: it asks for a table, a function or anything else that is not on the lists above.
        SqlUnknownDataset: it reads a table that is none of the datasets.
    """
    return _Check(datasets, sql).run(statement)


class _Check:
    def __init__(self, datasets: Collection[str], sql: str) -> None:
        self._datasets = frozenset(datasets)
        self._sql = sql
        self._used: set[str] = set()
        # Nodes still to be looked at, each with the common table expressions that it sees; no recursion, for a
        # statement may be nested deeper than Python's stack.
        self._waiting: list[tuple[Any, Scope]] = []

    def run(self, statement: Json) -> set[str]:
        self._waiting.append((statement, frozenset()))
        while self._waiting:
            value, scope = self._waiting.pop()
            if isinstance(value, list):
                self._waiting += [(each, scope) for each in value]
            elif isinstance(value, dict):
                self._look(value, scope)
        return self._used

    def _look(self, node: Json, scope: Scope) -> None:
        kind = node.get("type")
        if "class" in node:
            self._expression(node)
        elif isinstance(kind, str) and kind not in NODES and not kind.endswith("_TYPE_INFO"):
            raise self._refusal(node, f"{NAMES.get(kind, f'{kind} is')} not offered here; {HINT}")
        inner = dict(node)
        if node.get("class") == "CONSTANT":
            return
        if "cte_map" in inner:
            scope = self._with_ctes(inner.pop("cte_map"), scope)
        if kind == "BASE_TABLE":
            self._table(node, scope)
        elif kind == "TABLE_FUNCTION":
            inner["function"] = self._table_function(node["function"])
        elif kind == "RECURSIVE_CTE_NODE":
            self._waiting.append((inner.pop("right"), scope | {folded(node["cte_name"])}))
        self._waiting += [(value, scope) for value in inner.values()]

    def _with_ctes(self, given: Json, scope: Scope) -> Scope:
        """Each sees those before it; itself only where it is recursive, which its own node says."""
        for entry in given.get("map", []):
            self._waiting.append((entry["value"], scope))
            scope |= {folded(entry["key"])}
        return scope

    def _expression(self, node: Json) -> None:
        if node["class"] not in EXPRESSIONS:
            raise self._refusal(node, f"{node['class']} is not offered here")
        if "function_name" in node:
            self._function(node, FUNCTIONS)

    def _function(self, node: Json, allowed: Collection[str]) -> None:
        name, schema = folded(node["function_name"]), node.get("schema", "")
        if name not in allowed or schema not in FUNCTION_SCHEMAS or node.get("catalog"):
            shown = ".".join(part for part in (node.get("catalog"), schema, node["function_name"]) if part)
            raise self._refusal(node, f"function {shown} is not offered here; docs/queries.md says which are")

    def _table_function(self, function: Json) -> Json:
        """What remains to be looked at of a function in FROM."""
        self._function(function, TABLE_FUNCTIONS)
        return {name: value for name, value in function.items() if name not in {"class", "type", "function_name"}}

    def _table(self, node: Json, scope: Scope) -> None:
        name = folded(node["table_name"])
        parts = [node.get("catalog_name"), node.get("schema_name")]
        shown = ".".join(part for part in (*parts, node["table_name"]) if part)
        if any(parts):
            hint = f'; write "{shown}" in double quotes' if folded(shown) in self._datasets else ""
            raise self._refusal(node, f"table {shown}: a dataset is read by its slug alone{hint}")
        if name in scope:
            return
        if name not in self._datasets:
            raise SqlUnknownDataset(
                f"there is no dataset {shown[:120]!r} that you may read; GET /sql/schema lists those that you may",
                position=self._position(node),
            )
        self._used.add(name)

    def _refusal(self, node: Json, message: str) -> SqlNotAllowed:
        return SqlNotAllowed(message, position=self._position(node))

    def _position(self, node: Json) -> int | None:
        return characters(self._sql, node.get("query_location"))


def folded(name: str) -> str:
    """A name as DuckDB compares it."""
    return name.translate(FOLDING)


def characters(sql: str, position: str | int | None) -> int | None:
    """A place in bytes, as nodes and DuckDB's errors tell it, counted in characters from 0."""
    return None if position is None else len(sql.encode()[: int(position)].decode(errors="ignore"))
