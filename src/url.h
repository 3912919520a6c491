/*-------------------------------------------------------------------------
 *
 * url.h
 *	  What the URLs in our settings may look like.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_URL_H
#define SENDKIT_URL_H

extern const char *sendkit_url_base_fault(const char *url);
extern const char *sendkit_url_proxy_fault(const char *url);
extern bool sendkit_url_is_plain(const char *url);

#endif							/* SENDKIT_URL_H */
