/*-------------------------------------------------------------------------
 *
 * http_tls.c
 *	  What TLS can tell of a connection.
 *
 * libcurl hands out OpenSSL's object for a connection (CURLINFO_TLS_SSL_PTR).
 * The two functions that are called with it are those of the library that
 * libcurl itself is linked with: they are found when our library is loaded, and
 * need neither OpenSSL's headers nor its development package.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "http_tls.h"

/* NULL where no such library was loaded along with libcurl */
extern int	SSL_has_pending(const SendkitTls *tls) __attribute__((weak));
extern void SSL_get0_alpn_selected(const SendkitTls *tls, const unsigned char **protocol,
								   unsigned int *len) __attribute__((weak));

static bool
curl_uses_openssl(void)
{
	const curl_version_info_data *info = curl_version_info(CURLVERSION_NOW);

	return info->ssl_version &&
		(strncmp(info->ssl_version, "OpenSSL/", 8) == 0 ||
		 strncmp(info->ssl_version, "LibreSSL/", 9) == 0);
}

/*
 * Can the functions below tell anything?  Not when libcurl was built with
 * something else than OpenSSL.
 */
bool
sendkit_tls_can_be_looked_into(void)
{
	static int	answer = -1;

	if (answer < 0)
		answer = SSL_has_pending && SSL_get0_alpn_selected && curl_uses_openssl();
	return answer;
}

/* The one that a handle's transfer is using now, or NULL */
const SendkitTls *
sendkit_tls_of(CURL *easy)
{
	struct curl_tlssessioninfo *info = NULL;

	if (!sendkit_tls_can_be_looked_into() ||
		curl_easy_getinfo(easy, CURLINFO_TLS_SSL_PTR, &info) != CURLE_OK ||
		info == NULL || info->backend != CURLSSLBACKEND_OPENSSL)
		return NULL;
	return (const SendkitTls *) info->internals;
}

/* Was HTTP/2 agreed on (RFC 7301, RFC 9113 section 3.2)? */
bool
sendkit_tls_speaks_http2(const SendkitTls *tls)
{
	const unsigned char *protocol = NULL;
	unsigned int len = 0;

	SSL_get0_alpn_selected(tls, &protocol, &len);
	return len == 2 && memcmp(protocol, "h2", 2) == 0;
}

/* Are there bytes in it, decrypted or not, that nobody has read? */
bool
sendkit_tls_holds_bytes(const SendkitTls *tls)
{
	return SSL_has_pending(tls) != 0;
}
