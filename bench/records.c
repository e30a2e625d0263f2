#include "records.h"

#include "random.h"
#include "words.h"

#include <math.h>
#include <string.h>

int record_incompressible;

size_t record_key(char key[RECORD_KEY_BYTES], uint32_t index)
{
	char *p = memcpy(key, "customer:", 9);

	return (size_t)(word_put_number(p + 9, 10000000u + index) - key);
}

static struct random start(uint64_t seed, uint32_t index, uint32_t version)
{
	return (struct random){ random_mix(random_mix(seed) ^ ((uint64_t)version << 32 | index)) };
}

static size_t draw_bytes(struct random *r)
{
	return (size_t)(RECORD_MIN_BYTES * exp2(random_unit(r) * log2((double)RECORD_MAX_BYTES / RECORD_MIN_BYTES)));
}

size_t record_bytes(uint64_t seed, uint32_t index, uint32_t version)
{
	struct random r = start(seed, index, version);

	return draw_bytes(&r);
}

static void fill_binary(char *value, size_t bytes, struct random *r)
{
	for (size_t at = 0; at < bytes; at += 8) {
		uint64_t bits = random_next(r);

		memcpy(value + at, &bits, 8);
	}
}

static char *put_text(char *p, const char *text)
{
	size_t n = strlen(text);

	return (char *)memcpy(p, text, n) + n;
}

static char *put_field(char *p, const char *name, uint64_t number)
{
	p = put_text(p, name);
	return word_put_number(p, number);
}

static char *put_words(char *p, struct random *r, unsigned count, char between)
{
	while (count--) {
		p = word_put(p, r);
		if (count)
			*p++ = between;
	}
	return p;
}

static char *put_head(char *p, struct random *r, uint32_t index, uint32_t version)
{
	p = put_field(p, "{\"id\":", index);
	p = put_field(p, ",\"version\":", version);
	p = put_text(p, ",\"name\":\"");
	p = put_words(p, r, 2, ' ');
	p = put_text(p, "\",\"email\":\"");
	p = put_words(p, r, 2, '.');
	p = put_field(p, "@mail.example\",\"since\":", 1500000000u + random_below(r, 250000000));
	return put_field(p, ",\"balance\":", random_below(r, 1000000));
}

/* Events come in the order of time, seconds to hours apart. */
static char *put_event(char *p, struct random *r, uint32_t *at)
{
	static const char *const kinds[] = { "view", "view", "view", "order", "payment", "message" };

	*at += 1 + random_below(r, 5000);
	p = put_field(p, "{\"at\":", *at);
	p = put_text(p, ",\"kind\":\"");
	p = put_text(p, kinds[random_below(r, 6)]);
	p = put_field(p, "\",\"article\":", 10000 + random_below(r, 90000));
	p = put_field(p, ",\"quantity\":", 1 + random_below(r, 9));
	return put_text(p, ",\"currency\":\"EUR\",\"channel\":\"web\"},");
}

/* A head, events in nine tenths of the whole, prose in the rest. Cut to size: the last field takes the cut. */
static void fill_document(char *value, size_t bytes, struct random *r, uint32_t index, uint32_t version)
{
	char *p = put_head(value, r, index, version), *end = value + bytes;
	uint32_t at = 1700000000u + random_below(r, 50000000);

	p = put_text(p, ",\"events\":[");
	while (p < value + bytes * 9 / 10)
		p = put_event(p, r, &at);
	p = put_text(p, "0],\"note\":\"");
	while (p < end) {
		p = word_put(p, r);
		*p++ = ' ';
	}
	memcpy(end - 2, "\"}", 2);
}

size_t record_value(char value[RECORD_ROOM_BYTES], uint64_t seed, uint32_t index, uint32_t version)
{
	struct random r = start(seed, index, version);
	size_t bytes = draw_bytes(&r);

	if (random_below(&r, 10) == 0 || record_incompressible)
		fill_binary(value, bytes, &r);
	else
		fill_document(value, bytes, &r, index, version);
	return bytes;
}

size_t record_document(char value[RECORD_ROOM_BYTES], uint64_t seed, uint32_t index, uint32_t version)
{
	struct random r = start(seed, index, version);
	size_t bytes = draw_bytes(&r);

	fill_document(value, bytes, &r, index, version);
	return bytes;
}
