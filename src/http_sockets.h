/*-------------------------------------------------------------------------
 *
 * http_sockets.h
 *	  The sockets under libcurl's connections.
 *
 * Nothing here raises an error, unless it says so: most of it runs in
 * callbacks of libcurl, which an error must not jump out of.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SENDKIT_HTTP_SOCKETS_H
#define SENDKIT_HTTP_SOCKETS_H

#include <curl/curl.h>
#include <sys/types.h>

/* What is known of a socket; the array of them is indexed by descriptor */
typedef struct SendkitSocket
{
	bool		ours;			/* opened by sendkit_sockets_open() */
	bool		wanted;			/* libcurl waits for it */
	bool		http2;			/* carries a connection that speaks it */
	bool		unsettled;		/* ... on which the server's settings are
								 * awaited */
	uint64		written_at_first;	/* bytes, up to the first request; 0: not
									 * asked for */
	int			local_port;		/* 0: not asked for yet */
	ino_t		inode;			/* of ours: tells it from a successor */
	uint32		registered;		/* what epoll has been told to watch */
} SendkitSocket;

typedef struct SendkitSockets
{
	SendkitSocket *sockets;		/* malloc'd */
	int			size;			/* of the array */
	int			epoll_fd;
	int			reserved;		/* descriptors that fd.c granted us */
	int			opened;			/* of them in use */
	int			http2;			/* of those, that speak HTTP/2 */
	int			unsettled;		/* ... and on which settings are awaited */
	const char *refused;		/* why there is no descriptor for a socket, or
								 * NULL */
} SendkitSockets;

/* Something happened on a socket that libcurl waits for */
typedef struct SendkitSocketEvent
{
	curl_socket_t fd;
	int			action;			/* for curl_multi_socket_action() */
} SendkitSocketEvent;

/*
 * What to say when fd.c grants no descriptor: it counts for the session, and
 * its limit comes from both of these.
 */
#define SENDKIT_SESSION_FULL \
	"too many open files: the session's limit, by \"max_files_per_process\" or \"ulimit -n\", is reached"

extern const char *sendkit_sockets_init(SendkitSockets *sockets);

extern void sendkit_sockets_free(SendkitSockets *sockets);

extern int	sendkit_sockets_reserve(SendkitSockets *sockets, int wanted);

extern void sendkit_sockets_release_unused(SendkitSockets *sockets);

extern curl_socket_t sendkit_sockets_open(SendkitSockets *sockets,
										  const struct curl_sockaddr *address);
extern int	sendkit_sockets_close(SendkitSockets *sockets, curl_socket_t fd);

extern bool sendkit_sockets_watch(SendkitSockets *sockets, curl_socket_t fd, int what);

extern bool sendkit_sockets_any_wanted(const SendkitSockets *sockets);
extern bool sendkit_sockets_are_quiet(const SendkitSockets *sockets, int local_port);
extern bool sendkit_sockets_have_ended(const SendkitSockets *sockets, int local_port);

extern void sendkit_sockets_note_http2(SendkitSockets *sockets, int local_port);
extern void sendkit_sockets_note_first(SendkitSockets *sockets, int local_port);

extern void sendkit_sockets_look_for_settings(SendkitSockets *sockets);
extern void sendkit_sockets_note_answer(SendkitSockets *sockets, int local_port);

extern int	sendkit_sockets_poll(SendkitSockets *sockets,
								 SendkitSocketEvent *events, int max);

extern void sendkit_sockets_shutdown(const SendkitSockets *sockets);

extern void sendkit_sockets_shutdown_flood(const SendkitSockets *sockets, curl_socket_t which);

#endif							/* SENDKIT_HTTP_SOCKETS_H */
