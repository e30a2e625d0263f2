/*
 * A line of text built without stdio, for messages from threads that must not touch managed memory.
 * What does not fit is cut off.
 */
#ifndef LARDER_TEXT_H
#define LARDER_TEXT_H

#include <stddef.h>
#include <stdint.h>

struct larder_text {
	size_t length;
	char bytes[240];
};

static inline void text_string(struct larder_text *t, const char *s)
{
	while (*s && t->length < sizeof(t->bytes))
		t->bytes[t->length++] = *s++;
}

static inline void text_number(struct larder_text *t, uint64_t n)
{
	char digits[20];
	int i = 0;

	do
		digits[i++] = (char)('0' + n % 10);
	while (n /= 10);
	while (i > 0 && t->length < sizeof(t->bytes))
		t->bytes[t->length++] = digits[--i];
}

static inline void text_signed(struct larder_text *t, int64_t n)
{
	if (n < 0)
		text_string(t, "-");
	text_number(t, n < 0 ? (uint64_t)-n : (uint64_t)n);
}

static inline void text_hex(struct larder_text *t, uint64_t n)
{
	text_string(t, "0x");
	for (int shift = 60; shift >= 0; shift -= 4)
		if (n >> shift || shift == 0) {
			char digit[2] = { "0123456789abcdef"[n >> shift & 15], 0 };

			text_string(t, digit);
		}
}

#endif
