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

extern bool sendkit_tls_can_be_looked_into(void);

extern const SendkitTls *sendkit_tls_of(CURL *easy);

extern bool sendkit_tls_speaks_http2(const SendkitTls *tls);

extern bool sendkit_tls_holds_bytes(const SendkitTls *tls);

#endif							/* SENDKIT_HTTP_TLS_H */
