#!/usr/bin/env python3
"""A graph of a million small objects that is built, thinned out, searched and walked: what a language runtime does to
memory. Nothing in it has locality, so in less memory than it needs it thrashes.

    larder bench app --peer zram --limit 50% env PYTHONMALLOC=malloc python3 bench/objects.py

PYTHONMALLOC=malloc, because CPython's own arenas hide which objects belong together. Prints a digest, which is the same
in every run.
"""
import hashlib
import random

RECORDS = 250_000

numbers = random.Random(5)
table = {}
for serial in range(RECORDS):
    table[numbers.getrandbits(60)] = (serial, str(numbers.random()), [serial % 5, serial % 13])
for key in sorted(table)[::4]:
    del table[key]
for serial in range(RECORDS // 5):
    table[numbers.getrandbits(60)] = b"%d" % serial * 7
digest = hashlib.sha256()
for key in sorted(table):
    digest.update(repr((key, table[key])).encode())
print(len(table), digest.hexdigest())
