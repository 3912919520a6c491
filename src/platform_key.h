/*-------------------------------------------------------------------------
 *
 * platform_key.h
 *	  What a platform key may look like.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_PLATFORM_KEY_H
#define SENDKIT_PLATFORM_KEY_H

/* The longest platform key that is accepted, in bytes */
#define SENDKIT_MAX_KEY_LENGTH 512

/* What all keys of the vendor's begin with */
#define SENDKIT_KEY_PREFIX "sk_"

/*
 * Returns NULL if a key can be sent, else a whole sentence that says why not,
 * without a character of the key.  Cannot raise an error.
 */
extern const char *sendkit_platform_key_fault(const char *key, size_t len);

/*
 * Does the key begin as platform keys do, and workspace keys don't?  Cannot
 * raise an error.
 */
extern bool sendkit_platform_key_is_likely(const char *key);

#endif							/* SENDKIT_PLATFORM_KEY_H */
