/*-------------------------------------------------------------------------
 *
 * url.h
 *	  What the URLs in our settings may look like.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_URL_H
#define SENDKIT_URL_H

/*
 * Takes the root of the API as a setting gives it.  Returns NULL if it can be
 * used, else a whole sentence that says why not.  Never raises an error: GUC
 * check hooks must not.
 */
extern const char *sendkit_url_base_fault(const char *url);

/* The same for the URL of a proxy. */
extern const char *sendkit_url_proxy_fault(const char *url);

/* Is this usable base URL one of plain HTTP?  Cannot raise an error. */
extern bool sendkit_url_is_plain(const char *url);

#endif							/* SENDKIT_URL_H */
