#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Usage: systemctl COMMAND [OPTION...] [NAME.service]
#
# What the installation of the agent uses of systemctl(1), for a machine without systemd: starts and stops the
# program that ExecStart of a unit names, with its output in /var/log/NAME.log.
set -eu

wants=/etc/systemd/system/multi-user.target.wants
command=$1 now='' unit=''
shift
for word; do
	case $word in
	--now) now=yes ;;
	-*) ;;
	*) unit=$word ;;
	esac
done
name=${unit%.service}
file=/etc/systemd/system/$unit

daemon() {
	start-stop-daemon --pidfile "/run/$name.pid" "$@"
}

start() {
	exec=$(sed -n 's/^ExecStart=//p' "$file")
	# The words of ExecStart are separate arguments.
	# shellcheck disable=SC2086
	daemon --start --oknodo --background --make-pidfile --output "/var/log/$name.log" --startas /usr/bin/env -- $exec
}

stop() {
	daemon --stop --oknodo --remove-pidfile --retry TERM/20/KILL/5
}

case $command in
daemon-reload) ;;
is-active) daemon --status ;;
start) start ;;
stop) stop ;;
restart)
	stop
	start
	;;
enable)
	mkdir -p "$wants"
	ln -sf "$file" "$wants/$unit"
	[ -z "$now" ] || start
	;;
disable)
	rm -f "$wants/$unit"
	[ -z "$now" ] || stop
	;;
*)
	echo "systemctl $command is not supported on this machine" >&2
	exit 1
	;;
esac
