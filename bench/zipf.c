#include "zipf.h"

#include <math.h>

enum { SPREAD_PRIME = 2147483647 }; /* prime and larger than any n here: multiplication by it permutes 0 .. n-1 */

void zipf_init(struct zipf *z, uint32_t n, double skew)
{
	double zeta_2 = 1 + pow(0.5, skew);

	*z = (struct zipf){ .n = n, .skew = skew, .alpha = 1 / (1 - skew) };
	for (uint32_t i = 1; i <= n; i++)
		z->zeta_n += pow(1.0 / i, skew);
	z->eta = (1 - pow(2.0 / n, 1 - skew)) / (1 - zeta_2 / z->zeta_n);
}

static uint32_t draw_rank(const struct zipf *z, struct random *r)
{
	double u = random_unit(r), uz = u * z->zeta_n;
	double rank = z->n * pow(z->eta * u - z->eta + 1, z->alpha);

	if (uz < 1)
		return 0;
	if (uz < 1 + pow(0.5, z->skew))
		return 1;
	return rank < z->n ? (uint32_t)rank : z->n - 1;
}

uint32_t zipf_draw(const struct zipf *z, struct random *r)
{
	return (uint32_t)((uint64_t)draw_rank(z, r) * SPREAD_PRIME % z->n);
}
