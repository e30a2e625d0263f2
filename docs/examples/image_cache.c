/*
 * An image cache that gives its memory away when memory is short: volatile ranges, explicit
 * use.
 *
 * A viewer keeps decoded pictures, because decoding takes much longer than drawing. Yet a
 * decoded picture is never worth keeping at any price: its file is still there. So each picture
 * is *volatile* while nobody draws it. When the cache comes to its limit, the pictures drawn
 * longest ago are dropped, without being compressed or written, and are decoded again when they
 * are wanted. The cache itself has no code that chooses or evicts.
 *
 *   image_cache [IMAGES [DRAWS [LIMIT_MIB]]]
 *
 * Exit status: 0; 1 when a picture was wrong, nothing was ever dropped, or something failed;
 * 2: usage.
 */
#include <larder/larder.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PIXELS = 256 * 256, IMAGE_BYTES = PIXELS * sizeof(uint32_t) };

struct image {
	uint64_t file;	   /* stands for the picture's file: all that decoding needs */
	uint64_t checksum; /* of the decoded picture, from the file's header */
	uint32_t *pixels;  /* a page range; volatile but while it is drawn; NULL until then */
};

static larder_pool *pool;
static uint64_t draws, hits, losses, wrong;

static void die(const char *what, int err)
{
	fprintf(stderr, "image_cache: %s: %s\n", what, strerror(-err));
	exit(1);
}

/* splitmix64 (Steele, Lea and Flood 2014): a small generator that any seed will do for. */
static uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

/* What is expensive in a real cache. Here a "file" is a seed for runs of pixels of one colour.
 */
static void decode(uint64_t file, uint32_t *pixels)
{
	for (size_t i = 0; i < PIXELS;) {
		uint64_t r = next_random(&file);

		for (size_t run = 1 + r % 15; run && i < PIXELS; run--)
			pixels[i++] = r >> 32;
	}
}

static uint64_t checksum(const uint32_t *pixels)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < PIXELS; i++)
		sum = (sum ^ pixels[i]) * 0x100000001b3u;
	return sum;
}

/* Before the first use there is nothing that could be intact: make room, and decode into it. */
static void image_load(struct image *image)
{
	void *pages;
	int err = larder_pages_alloc(pool, IMAGE_BYTES, &pages);

	if (err)
		die("larder_pages_alloc", err);
	image->pixels = pages;
	decode(image->file, image->pixels);
}

/* From here to image_put() the picture stays. */
static const uint32_t *image_get(struct image *image)
{
	int state;

	if (!image->pixels) {
		image_load(image);
		return image->pixels;
	}
	state = larder_nonvolatile(pool, image->pixels, IMAGE_BYTES, 0, NULL);
	if (state < 0)
		die("larder_nonvolatile", state);
	if (state == LARDER_INTACT) {
		hits++;
		return image->pixels;
	}
	losses++;
	decode(image->file, image->pixels);
	state = larder_refilled(pool, image->pixels, IMAGE_BYTES);
	if (state < 0)
		die("larder_refilled", state);
	return image->pixels;
}

/* From here on it may go at any moment, without a word. */
static void image_put(struct image *image)
{
	static const struct larder_volatile_options options = { .priority = 1 };
	int err = larder_volatile(pool, image->pixels, IMAGE_BYTES, &options);

	if (err)
		die("larder_volatile", err);
}

static void draw(struct image *image)
{
	const uint32_t *pixels = image_get(image);

	draws++;
	if (checksum(pixels) != image->checksum)
		wrong++;
	image_put(image);
}

static uint64_t purged_bytes(void)
{
	struct larder_pool_stats stats;
	uint64_t bytes = 0;
	int err = larder_pool_get_stats(pool, &stats);

	if (err)
		die("larder_pool_get_stats", err);
	for (int i = 0; i < LARDER_PRIORITIES; i++)
		bytes += stats.priority[i].purged_bytes;
	return bytes;
}

static void cache_open(uint64_t limit_bytes)
{
	struct larder_pool_options options = { .limit_bytes = limit_bytes,
					       .order = LARDER_ORDER_LRU };
	int err = larder_start(NULL);

	if (err && err != -EALREADY) /* already: under `larder run` */
		die("larder_start (`larder doctor` says more)", err);
	err = larder_pool_create(&pool, &options);
	if (err)
		die("larder_pool_create", err);
}

/* The pictures' files, which know what they decode to. */
static struct image *images_make(size_t count)
{
	struct image *images = calloc(count, sizeof(*images));
	uint32_t *pixels = malloc(IMAGE_BYTES);

	if (!images || !pixels)
		die("images", -ENOMEM);
	for (size_t i = 0; i < count; i++) {
		images[i].file = i;
		decode(images[i].file, pixels);
		images[i].checksum = checksum(pixels);
	}
	free(pixels);
	return images;
}

/* The product of two numbers in [0, 1) is small more often than not: some pictures are looked
 * at again and again. */
static size_t pick(uint64_t *random, size_t count)
{
	uint64_t r = next_random(random);

	return (r >> 32) * (uint32_t)r / 0x100000000u * count >> 32;
}

/* --help, and whatever is not a positive number, gives the usage. */
static uint64_t argument(int argc, char **argv, int at, uint64_t otherwise)
{
	uint64_t value = at < argc ? strtoull(argv[at], NULL, 10) : otherwise;
	int help = argc > 1 && !strcmp(argv[1], "--help");

	if (value && value <= UINT32_MAX && argc <= 4 && !help)
		return value;
	fprintf(help ? stdout : stderr,
		"usage: image_cache [IMAGES [DRAWS [LIMIT_MIB]]]\n"
		"Draw DRAWS times one of IMAGES pictures of 256 KiB, with LIMIT_MIB for decoded ones (200 4000 16).\n");
	exit(help ? 0 : 2);
}

int main(int argc, char **argv)
{
	size_t count = argument(argc, argv, 1, 200);
	uint64_t todo = argument(argc, argv, 2, 4000), limit_mib = argument(argc, argv, 3, 16);
	uint64_t random = 1, dropped;
	struct image *images;
	int err;

	cache_open(limit_mib << 20);
	images = images_make(count);
	while (draws < todo)
		draw(&images[pick(&random, count)]);
	dropped = purged_bytes();
	err = larder_pool_destroy(pool); /* and with it every picture */
	if (err)
		die("larder_pool_destroy", err);
	free(images);

	printf("%" PRIu64 " draws: %" PRIu64 " hits, %" PRIu64 " losses, %" PRIu64
	       " MiB purged, wrong = %" PRIu64 "\n",
	       draws, hits, losses, dropped >> 20, wrong);
	return wrong || !dropped;
}
