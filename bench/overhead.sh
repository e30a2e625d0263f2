#!/bin/sh
# What Larder costs a program that never comes near its limit.
#
# Each program runs in pairs: with jemalloc alone (LD_PRELOAD=libjemalloc.so.2), and under `larder run --limit 100G`, which uses the same
# jemalloc. The order within a pair alternates. For each pair the ratios larder / jemalloc of wall time, CPU time (user and system) and peak RSS are
# taken; the medians are printed against the target. Needs /usr/bin/time (Debian: time); sqlite3 and python3 are used when present.
#
# Usage: bench/overhead.sh [--pairs N] [BUILD_DIRECTORY]        (defaults: 7, build/release)
# Exit code: 0 measured (the target met or not), 2 usage or environment.
set -eu

target=1.03
pairs=7
build=$(dirname "$0")/../build/release

fail() {
	echo "overhead.sh: $*" >&2
	exit 2
}

while [ $# -gt 0 ]; do
	case $1 in
	--pairs)
		[ $# -ge 2 ] || fail "--pairs needs a number"
		pairs=$2
		shift 2
		;;
	-h | --help)
		sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
		exit 0
		;;
	-*) fail "there is no option $1; try --help" ;;
	*)
		build=$1
		shift
		;;
	esac
done
case $pairs in '' | *[!0-9]* | 0*) fail "--pairs must be a positive number, not '$pairs'" ;; esac

larder=$build/bin/larder
churn=$build/bin/bench_churn
[ -x "$larder" ] || fail "$larder is missing; build first, or name the build directory"
[ -x "$churn" ] || fail "$churn is missing; build first"
[ -x /usr/bin/time ] || fail "/usr/bin/time is missing; install the package time"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP

# timed NAME COMMAND...: append "wall cpu rss_kib" of the command to $work/NAME
timed() {
	name=$1
	shift
	/usr/bin/time -f '%e %U %S %M' -o "$work/time" "$@" >/dev/null </dev/null || fail "failed: $*"
	awk '{ print $1, $2 + $3, $4 }' "$work/time" >>"$work/$name"
}

plain() {
	timed plain env LD_PRELOAD=libjemalloc.so.2 "$@"
}

managed() {
	timed larder "$larder" run --limit 100G -- "$@"
}

# median of the numbers on standard input
median() {
	sort -g | awk '{ v[NR] = $1 } END { print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'
}

# ratio_median COLUMN: of the pairs' ratios
ratio_median() {
	paste -d ' ' "$work/plain" "$work/larder" | awk -v c="$1" '{ print $(c + 3) / $c }' | median
}

column_median() {
	cut -d ' ' -f "$2" "$work/$1" | median
}

# compare NAME COMMAND...
compare() {
	label=$1
	shift
	rm -f "$work/plain" "$work/larder"
	i=0
	while [ $i -lt "$pairs" ]; do
		if [ $((i % 2)) = 0 ]; then
			plain "$@"
			managed "$@"
		else
			managed "$@"
			plain "$@"
		fi
		i=$((i + 1))
	done
	report "$label"
}

report() {
	wall=$(ratio_median 1)
	rss=$(ratio_median 3)
	verdict=$(awk -v w="$wall" -v r="$rss" -v t=$target 'BEGIN { print w <= t && r <= t ? "met" : "MISSED" }')
	printf '%-16s %8.2f %8.1f %10.3f %10.3f %10.3f   %s\n' "$1" "$(column_median plain 1)" \
		"$(column_median plain 3 | awk '{ print $1 / 1024 }')" "$wall" "$(ratio_median 2)" "$rss" "$verdict"
}

cat >"$work/sqlite.sql" <<'SQL'
PRAGMA cache_size = -400000;
CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, score INTEGER);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600000)
	INSERT INTO t SELECT i, 'name ' || (i * 2654435761 % 1000003), i * 40503 % 65537 FROM n;
CREATE INDEX by_name ON t (name);
UPDATE t SET score = score + 1 WHERE id % 3 = 0;
SELECT count(*), sum(score) FROM t WHERE name > 'name 5';
SELECT a.score, count(*) FROM t a JOIN t b ON b.id = a.score GROUP BY a.score ORDER BY 2 DESC LIMIT 5;
DELETE FROM t WHERE id % 2 = 0;
SQL

cat >"$work/objects.py" <<'PYTHON'
words = {}
for turn in range(6):
    for i in range(250000):
        words["key %d" % (i * 7919 % 400009)] = [i, str(i), (turn, i)]
    for i in range(0, 400009, 3):
        words.pop("key %d" % i, None)
text = sorted(" ".join(value[1] for value in words.values()).split())
print(len(words), len(text))
PYTHON

printf '%-16s %8s %8s %10s %10s %10s   wall and RSS <= %s\n' "larder/jemalloc" "wall s" "RSS MiB" "wall" "CPU" "peak RSS" $target
compare malloc-churn "$churn"
if command -v sqlite3 >/dev/null; then
	compare sqlite3 sqlite3 :memory: ".read $work/sqlite.sql"
fi
if command -v python3 >/dev/null; then
	# The interpreter itself, not a wrapper script; its own small-object allocator off, so that every object is a malloc.
	python=$(python3 -c 'import os, sys; print(os.path.realpath(sys.executable))')
	PYTHONMALLOC=malloc
	export PYTHONMALLOC
	compare python3 "$python" "$work/objects.py"
fi
