/*-------------------------------------------------------------------------
 *
 * resend.c
 *	  Which requests libcurl may send a second time.
 *
 * libcurl silently repeats a request in two cases (Curl_retry_request() in its
 * transfer.c): when a connection that was used before ends without a byte of
 * an answer, and when an HTTP/2 stream was refused (RST_STREAM with
 * REFUSED_STREAM, or a number above the last one that GOAWAY names).  In the
 * second case the protocol guarantees that the request was not processed (RFC
 * 9113, 8.7).  In the first it may well have been, and repeating it could
 * revoke a key made in between.  libcurl does not say which case it is, but
 * its pre-request callback is called again before a repetition, and there the
 * driver (http.c) decides by evidence:
 *
 * - a connection that was new for the request is never repeated in the first
 *   case;
 * - a reused one has to be known to speak HTTP/2: because an answer came that
 *   way before, or because another request is under way on the same
 *   connection, which HTTP/1 has no means for.  On HTTP/2, libcurl reports the
 *   end of a connection as an error, with a message, where it does not repeat;
 * - there must be no such message, and the kernel must say that the peer has
 *   not ended the connection.
 *
 * A connection is told by its two ends, since that is what the callback gets.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "resend.h"

void
sendkit_route_set(SendkitRoute *route, const char *peer_ip, int peer_port,
				  const char *local_ip, int local_port)
{
	strlcpy(route->peer_ip, peer_ip ? peer_ip : "", sizeof(route->peer_ip));
	strlcpy(route->local_ip, local_ip ? local_ip : "", sizeof(route->local_ip));
	route->peer_port = peer_port;
	route->local_port = local_port;
}

bool
sendkit_route_equal(const SendkitRoute *a, const SendkitRoute *b)
{
	return a->local_port == b->local_port && a->peer_port == b->peer_port &&
		strcmp(a->local_ip, b->local_ip) == 0 &&
		strcmp(a->peer_ip, b->peer_ip) == 0;
}

static SendkitRoute *
find_route(SendkitRoutes *routes, const SendkitRoute *route)
{
	for (int i = 0; i < SENDKIT_KNOWN_ROUTES; i++)
	{
		if (sendkit_route_equal(&routes->known[i], route))
			return &routes->known[i];
	}
	return NULL;
}

void
sendkit_routes_note(SendkitRoutes *routes, const SendkitRoute *route,
					bool multiplexed)
{
	SendkitRoute *known = find_route(routes, route);

	if (known && !multiplexed)
		memset(known, 0, sizeof(*known));
	else if (!known && multiplexed)
	{
		routes->known[routes->next] = *route;
		routes->next = (routes->next + 1) % SENDKIT_KNOWN_ROUTES;
	}
}

bool
sendkit_routes_multiplexed(const SendkitRoutes *routes, const SendkitRoute *route)
{
	return route->local_port != 0 &&
		find_route(unconstify(SendkitRoutes *, routes), route) != NULL;
}
