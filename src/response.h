/*-------------------------------------------------------------------------
 *
 * response.h
 *	  The body of an answer as typed fields.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_RESPONSE_H
#define SENDKIT_RESPONSE_H

typedef enum SendkitJsonKind
{
	SENDKIT_JSON_NONE,			/* the field is not there */
	SENDKIT_JSON_NULL,
	SENDKIT_JSON_FALSE,
	SENDKIT_JSON_TRUE,
	SENDKIT_JSON_NUMBER,
	SENDKIT_JSON_STRING,
	SENDKIT_JSON_OBJECT,
	SENDKIT_JSON_ARRAY,
} SendkitJsonKind;

typedef struct SendkitJsonField
{
	SendkitJsonKind kind;
	char	   *text;			/* of a string or number, in UTF-8; of an
								 * array, its JSON; else NULL */
} SendkitJsonField;

/* All that the API documents of its answers' bodies, in both shapes */
typedef struct SendkitResponse
{
	SendkitJsonField success;
	SendkitJsonField message;
	SendkitJsonField error;
	SendkitJsonField data;
	SendkitJsonField data_message;
	SendkitJsonField error_code;
	SendkitJsonField error_message;
	SendkitJsonField error_details;
} SendkitResponse;

extern bool sendkit_response_parse(const char *body, size_t len,
								   SendkitResponse *response);

#endif							/* SENDKIT_RESPONSE_H */
