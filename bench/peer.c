#include "peer.h"

#include "swap.h"

#include <err.h>
#include <string.h>
#include <unistd.h>

static const struct peer *const peers[] = { &peer_zram, &peer_zswap, &peer_swapfile };

static const struct peer *prepared;

const struct peer *peer_parse(const char *name)
{
	if (!strcmp(name, "none"))
		return NULL;
	for (unsigned i = 0; i < sizeof(peers) / sizeof(peers[0]); i++)
		if (!strcmp(name, peers[i]->name))
			return peers[i];
	errx(2, "there is no peer '%s': choose none, zram, zswap or swapfile", name);
}

void peer_prepare(const struct peer *peer, const char *dir, uint64_t bytes)
{
	if (geteuid())
		errx(2, "--peer %s needs root, to switch it on and off; --peer none does not", peer->name);
	/* Another one would take pages that nobody counts. */
	if (swap_areas())
		errx(2, "swap areas are on, which would take pages too: switch them off first (see swapon(8))");
	peer->prepare(dir, bytes);
	prepared = peer;
}

void peer_put_back(void)
{
	if (!prepared)
		return;
	prepared->off();
	prepared->close();
}
