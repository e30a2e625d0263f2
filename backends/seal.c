/*
 * Seal. See seal.h.
 */
#include "seal.h"

#include "sys.h"

#include <sodium.h>

struct larder_seal {
	crypto_aead_aes256gcm_state aes; /* the key schedule, aligned as it wants */
	unsigned char key[crypto_aead_chacha20poly1305_ietf_KEYBYTES];
	int has_aes;
};

enum { NONCE_BYTES = crypto_aead_aes256gcm_NPUBBYTES };

_Static_assert((int)crypto_aead_aes256gcm_KEYBYTES == (int)crypto_aead_chacha20poly1305_ietf_KEYBYTES,
	       "one key for both");
_Static_assert((int)crypto_aead_aes256gcm_ABYTES == SEAL_TAG_BYTES &&
		       (int)crypto_aead_chacha20poly1305_ietf_ABYTES == SEAL_TAG_BYTES,
	       "both tags have one size");
_Static_assert(NONCE_BYTES == 12 && crypto_aead_chacha20poly1305_ietf_NPUBBYTES == 12, "opening and offset");
_Static_assert(sizeof(struct larder_seal) <= 4096, "one page");

void seal_inherit(struct larder_seal *s)
{
	sys_call3(SYS_mlock, (long)s, 4096, 0); /* if it may: kernel swap is not ours */
}

struct larder_seal *seal_open(void)
{
	struct larder_seal *s;

	if (sodium_init() < 0)
		return NULL;
	s = sys_map(4096);
	if (!s)
		return NULL;
	sys_madvise(s, 4096, MADV_DONTDUMP);
	seal_inherit(s);
	if (sys_call3(SYS_getrandom, (long)s->key, sizeof(s->key), 0) != sizeof(s->key)) {
		seal_close(s);
		return NULL;
	}
	s->has_aes = crypto_aead_aes256gcm_is_available();
	if (s->has_aes)
		crypto_aead_aes256gcm_beforenm(&s->aes, s->key);
	return s;
}

void seal_close(struct larder_seal *s)
{
	sodium_memzero(s, sizeof(*s));
	sys_munmap(s, 4096);
}

static void nonce_of(unsigned char nonce[NONCE_BYTES], uint64_t opening, uint32_t offset)
{
	__builtin_memcpy(nonce, &opening, 8);
	__builtin_memcpy(nonce + 8, &offset, 4);
}

void seal(const struct larder_seal *s, uint64_t opening, uint32_t offset, const void *plain, size_t bytes, void *sealed)
{
	unsigned char nonce[NONCE_BYTES];

	nonce_of(nonce, opening, offset);
	if (s->has_aes)
		crypto_aead_aes256gcm_encrypt_afternm(sealed, NULL, plain, bytes, NULL, 0, NULL, nonce, &s->aes);
	else
		crypto_aead_chacha20poly1305_ietf_encrypt(sealed, NULL, plain, bytes, NULL, 0, NULL, nonce, s->key);
}

int unseal(const struct larder_seal *s, uint64_t opening, uint32_t offset, const void *sealed, size_t bytes,
	   void *plain)
{
	unsigned char nonce[NONCE_BYTES];
	int err;

	nonce_of(nonce, opening, offset);
	if (s->has_aes)
		err = crypto_aead_aes256gcm_decrypt_afternm(plain, NULL, NULL, sealed, bytes + SEAL_TAG_BYTES, NULL, 0,
							    nonce, &s->aes);
	else
		err = crypto_aead_chacha20poly1305_ietf_decrypt(plain, NULL, NULL, sealed, bytes + SEAL_TAG_BYTES, NULL,
								0, nonce, s->key);
	return err ? -EBADMSG : 0;
}
