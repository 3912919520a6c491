/*-------------------------------------------------------------------------
 *
 * text.h
 *	  Text between the database's encoding and the API's UTF-8.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_TEXT_H
#define SENDKIT_TEXT_H

/* How to convert between the database's encoding and UTF-8 */
typedef struct SendkitTextConverter
{
	int			encoding;		/* the database's */
	Oid			to_utf8;		/* conversion functions, or InvalidOid */
	Oid			from_utf8;
} SendkitTextConverter;

/*
 * Looks the conversion functions up and loads them, so that nothing of the
 * kind is left to do when an answer is here.  Reads the catalogs; may raise
 * their errors.
 */
extern void sendkit_text_init(SendkitTextConverter *converter);

/*
 * Takes len bytes of text in the database's encoding.  Returns them as a
 * palloc'd UTF-8 string, or NULL if they have no valid form in UTF-8.  Raises
 * nothing but out of memory.
 */
extern char *sendkit_text_to_utf8(const SendkitTextConverter *converter,
								  const char *text, int len);

/*
 * Takes len bytes that should be UTF-8.  Returns a palloc'd string that is
 * valid in the database's encoding: a control character becomes a blank, and
 * what is malformed or has no place in that encoding becomes a question mark.
 * Raises nothing but out of memory.
 */
extern char *sendkit_text_from_utf8(const SendkitTextConverter *converter,
									const char *text, int len);

/*
 * Overwrites in place, by asterisks, the platform key and whatever else in the
 * text looks like a key of the vendor's.  Cannot raise an error.
 */
extern void sendkit_text_mask_keys(char *text, const char *platform_key);

/* Has the UTF-8 text a C0 or C1 control character, or DEL?  Cannot raise. */
extern bool sendkit_text_has_control(const char *utf8);

#endif							/* SENDKIT_TEXT_H */
