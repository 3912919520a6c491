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

extern void sendkit_text_init(SendkitTextConverter *converter);
extern char *sendkit_text_to_utf8(const SendkitTextConverter *converter,
								  const char *text, int len);
extern char *sendkit_text_to_show(const SendkitTextConverter *converter,
								  const char *utf8, const char *platform_key,
								  size_t max_len);
extern const char *sendkit_text_for_client(const char *text);
extern void sendkit_text_clip(char *copy, const char *text, size_t size);

extern bool sendkit_text_has_control(const char *utf8);
extern bool sendkit_text_has_blank_end(const char *utf8);

#endif							/* SENDKIT_TEXT_H */
