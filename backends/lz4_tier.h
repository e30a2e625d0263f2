/*
 * The LZ4 tier's state, for its parts and its tests. See lz4.c.
 */
#ifndef LARDER_LZ4_TIER_H
#define LARDER_LZ4_TIER_H

#include "pack.h"
#include "recompress.h"

struct larder_lz4 {
	struct larder_pack pack;
	struct larder_recompress recompress;
};

#endif
