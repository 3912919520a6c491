/*-------------------------------------------------------------------------
 *
 * resend.h
 *	  Which requests libcurl may send a second time.
 *
 * Nothing here raises an error: all of it runs in callbacks of libcurl.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_RESEND_H
#define SENDKIT_RESEND_H

#include <netinet/in.h>

/* The two ends of a connection, which tell it from all others */
typedef struct SendkitRoute
{
	char		peer_ip[INET6_ADDRSTRLEN];
	char		local_ip[INET6_ADDRSTRLEN];
	int			peer_port;
	int			local_port;
} SendkitRoute;

#define SENDKIT_KNOWN_ROUTES 8

/* The connections last seen to speak HTTP/2 */
typedef struct SendkitRoutes
{
	SendkitRoute known[SENDKIT_KNOWN_ROUTES];
	int			next;
} SendkitRoutes;

extern void sendkit_route_set(SendkitRoute *route, const char *peer_ip, int peer_port,
							  const char *local_ip, int local_port);
extern bool sendkit_route_equal(const SendkitRoute *a, const SendkitRoute *b);

/* Remembers whether a connection speaks HTTP/2. */
extern void sendkit_routes_note(SendkitRoutes *routes, const SendkitRoute *route,
								bool multiplexed);

/* Is a connection known to speak HTTP/2? */
extern bool sendkit_routes_multiplexed(const SendkitRoutes *routes,
									   const SendkitRoute *route);

#endif							/* SENDKIT_RESEND_H */
