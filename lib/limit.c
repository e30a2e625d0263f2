/*
 * Reading a limit. By hand, because strtod follows the locale.
 */
#include "limit.h"

#include <errno.h>

static int is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* How far the unit shifts, and *text behind it; -1 when there is no such unit. */
static int unit_shift(const char **text)
{
	static const char letters[] = "kmgt";
	int shift = 0;

	for (int i = 0; letters[i]; i++)
		if ((**text | 0x20) == letters[i])
			shift = 10 * (i + 1);
	if (shift)
		++*text;
	if (shift && **text == 'i')
		++*text, shift |= **text == 'B' || **text == 'b' ? 0 : 0x100;
	if (**text == 'B' || **text == 'b')
		++*text;
	return **text || shift & 0x100 ? -1 : shift;
}

/* Digits into *number; false when they do not fit. */
static int read_digits(const char **text, uint64_t *number)
{
	for (; is_digit(**text); ++*text)
		if (__builtin_mul_overflow(*number, 10u, number) ||
		    __builtin_add_overflow(*number, (uint64_t)(**text - '0'), number))
			return 0;
	return 1;
}

/* The fraction in millionths, rounded down; digits beyond are read and ignored. */
static uint64_t read_millionths(const char **text)
{
	uint64_t value = 0, weight = 100000;

	for (; is_digit(**text); ++*text, weight /= 10)
		value += weight * (uint64_t)(**text - '0');
	return value;
}

static int parse_percent(uint64_t number, struct larder_limit *limit)
{
	if (number < 1 || number > 100)
		return -ERANGE;
	*limit = (struct larder_limit){ .percent = (unsigned)number };
	return 0;
}

static int count_bytes(uint64_t number, uint64_t millionths, int shift, uint64_t *bytes)
{
	if (number >> (63 - shift))
		return -ERANGE;
	*bytes = (number << shift) + (uint64_t)((unsigned __int128)millionths * ((uint64_t)1 << shift) / 1000000u);
	return 0;
}

/* What follows the whole part of a size, and all of it in bytes. */
static int parse_rest(const char *text, uint64_t number, uint64_t *bytes)
{
	uint64_t millionths = 0;
	int shift;

	if (text[0] == '.' && is_digit(text[1])) {
		text++;
		millionths = read_millionths(&text);
	}
	shift = unit_shift(&text);
	return shift < 0 ? -EINVAL : count_bytes(number, millionths, shift, bytes);
}

int limit_parse(const char *text, struct larder_limit *limit)
{
	const char *rest = text;
	uint64_t number = 0, bytes;
	int err;

	if (is_digit(*rest) && read_digits(&rest, &number) && rest[0] == '%' && !rest[1])
		return parse_percent(number, limit);
	err = size_parse(text, LARDER_LIMIT_MIN_BYTES, UINT64_MAX, &bytes);
	if (!err)
		*limit = (struct larder_limit){ .bytes = bytes };
	return err;
}

const char *limit_explain(int err)
{
	return err == -ERANGE ? "give 16M or more, or 1% to 100%"
			      : "give a size such as 512M or 2G, or a share such as 50%";
}

int size_parse(const char *text, uint64_t least, uint64_t most, uint64_t *bytes)
{
	uint64_t number = 0, value;
	int err;

	if (!is_digit(*text))
		return -EINVAL;
	if (!read_digits(&text, &number))
		return -ERANGE;
	err = parse_rest(text, number, &value);
	if (err)
		return err;
	if (value < least || value > most)
		return -ERANGE;
	*bytes = value;
	return 0;
}

int swap_size_parse(const char *text, uint64_t *bytes)
{
	return size_parse(text, LARDER_SWAP_MIN_BYTES, LARDER_SWAP_MAX_BYTES, bytes);
}

const char *swap_size_explain(int err)
{
	return err == -ERANGE ? "give 64M to 16T" : "give a size such as 512M or 20G";
}
