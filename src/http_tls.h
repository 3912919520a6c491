/*-------------------------------------------------------------------------
 *
 * http_tls.h
 *	  What TLS can tell of a connection.
 *
 * For the transport's own files.  Nothing here raises an error.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_HTTP_TLS_H
#define SENDKIT_HTTP_TLS_H

#include <curl/curl.h>

/* A TLS connection, as OpenSSL knows it */
typedef struct ssl_st SendkitTls;

/*
 * Can the functions below tell anything?  Not when libcurl was built with
 * something else than OpenSSL.
 */
extern bool sendkit_tls_can_be_looked_into(void);

/* The one that a handle's transfer is using now, or NULL */
extern const SendkitTls *sendkit_tls_of(CURL *easy);

/* Was HTTP/2 agreed on (RFC 7301, RFC 9113 section 3.2)? */
extern bool sendkit_tls_speaks_http2(const SendkitTls *tls);

/* Are there bytes in it, decrypted or not, that nobody has read? */
extern bool sendkit_tls_holds_bytes(const SendkitTls *tls);

#endif							/* SENDKIT_HTTP_TLS_H */
