#!/bin/sh
# Two hosts on one machine: network namespaces that see each other through a cable, and nothing else.
#
#     two_hosts.sh FOLDER_A COMMAND_A FOLDER_B COMMAND_B
#
# Runs each command in its folder on its host, 10.77.0.1 and 10.77.0.2, with its output in FOLDER/out, and ends with the
# sum of the exit codes. Exit code 77: namespaces may not be made here (the reason is on stderr).

command -v ip >/dev/null || { echo "no ip command (iproute2)" >&2; exit 77; }
a="prism-a-$$" b="prism-b-$$"
trap 'ip netns delete "$a" 2>/dev/null; ip netns delete "$b" 2>/dev/null' EXIT
trap 'exit 1' INT TERM
{ ip netns add "$a" && ip netns add "$b" &&
  ip link add "veth$$" netns "$a" type veth peer name eth0 netns "$b" &&
  ip netns exec "$a" ip link set "veth$$" name eth0; } || { echo "network namespaces may not be made" >&2; exit 77; }
for host in "$a 10.77.0.1" "$b 10.77.0.2"; do
  set_up() {
    ip -n "$1" address add "$2/24" dev eth0 && ip -n "$1" link set eth0 up && ip -n "$1" link set lo up
  }
  set_up ${host} || { echo "network namespaces may not be configured" >&2; exit 77; }
done
(cd "$1" && exec ip netns exec "$a" sh -c "$2" >"$1/out" 2>&1) & first=$!
(cd "$3" && exec ip netns exec "$b" sh -c "$4" >"$3/out" 2>&1) & second=$!
wait "$first"; code=$?
wait "$second"; exit $((code + $?))
