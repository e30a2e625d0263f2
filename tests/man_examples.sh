#!/bin/bash
# The programs in larder-volatile(7) are the example programs: each .EX block, unescaped, is a passage of one of them.
#   man_examples.sh SOURCE_DIR
set -eu
cd "$1/docs"
sources=$(cat examples/*.c)
blocks=0 block='' inside=
while IFS= read -r line; do
	case $line in
	.EX) inside=yes block='' ;;
	.EE)
		blocks=$((blocks + 1)) inside=
		[[ $sources == *"$block"* ]] || { printf 'not in an example program:\n%s' "$block" >&2; exit 1; }
		;;
	*) [ -z "$inside" ] || { line=${line#\\&} line=${line//\\-/-} && block+=${line//\\e/\\}$'\n'; } ;;
	esac
done <larder-volatile.7
[ "$blocks" -ge 2 ]
echo "$blocks passages of the example programs"
