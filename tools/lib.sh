# Shared by tools/check and tools/try: steps that say what they do, and stop at the first command that fails. Sourced, not run.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

packages=(build-essential cmake pkg-config liburing-dev liblz4-dev libsodium-dev libxxhash-dev libjemalloc-dev libjemalloc2 libcmocka-dev libjson-c-dev
	libhiredis-dev libsqlite3-dev python3 redis-server redis-tools fio gnuplot-nox libcap2-bin groff-base util-linux procps)

started=$SECONDS

say() {
	printf '[%3d s] %s\n' "$((SECONDS - started))" "$*"
}

fail() {
	printf '[%3d s] FAILED: %s\n' "$((SECONDS - started))" "$*" >&2
	exit 1
}

# Run a command; when it fails, name it and stop.
run() {
	local status
	"$@"
	status=$?
	[ "$status" = 0 ] || fail "$(printf '%q ' "$@")(exit status $status)"
}

# Run a command whose output matters only when it fails.
run_quietly() {
	local log status
	log=$(mktemp)
	"$@" >"$log" 2>&1
	status=$?
	[ "$status" = 0 ] || { cat "$log" >&2; rm -f "$log"; fail "$(printf '%q ' "$@")(exit status $status)"; }
	rm -f "$log"
}

install_packages() {
	local missing=() package
	for package in "${packages[@]}"; do
		dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
	done
	if [ "${#missing[@]}" = 0 ]; then
		say "packages: all installed"
		return
	fi
	if [ "$(id -u)" != 0 ]; then
		fail "packages are missing; run as root: apt-get install ${missing[*]}"
	fi
	say "packages: installing ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	run_quietly apt-get update -q
	# The jobs start a redis-server of their own: keep the package from starting its service.
	local policy=/usr/sbin/policy-rc.d made=
	if [ ! -e "$policy" ]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && made=yes
	fi
	run_quietly apt-get install -q -y --no-install-recommends "${missing[@]}"
	[ -z "$made" ] || rm -f "$policy"
}

# build PRESET
build() {
	say "build: $1"
	run_quietly cmake --preset "$1"
	run_quietly cmake --build --preset "$1" -j "$(nproc)"
}
