#!/bin/sh
# One heartbeat as a line of JSON, read from /proc.
read -r uptime _ </proc/uptime
read -r load _ </proc/loadavg
free=$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
greeting=$(printf %s "${GREETING:-All is well}" | tr -d '\000-\037"\\')
key=$(printf %.4s "${PULSE_KEY:-none}" | tr -cd '[:alnum:]')
printf '{"time":%s,"uptime":%s,"load":%s,"freeMb":%s,"greeting":"%s","key":"%s"}\n' \
  "$(date +%s)" "${uptime%.*}" "$load" "${free:-0}" "$greeting" "$key"
