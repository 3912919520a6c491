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

extern const char *sendkit_platform_key_fault(const char *key, size_t len);
extern bool sendkit_platform_key_is_likely(const char *key);

#endif							/* SENDKIT_PLATFORM_KEY_H */
