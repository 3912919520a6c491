/*-------------------------------------------------------------------------
 *
 * http_sockets.c
 *	  The sockets under libcurl's connections.
 *
 * Waiting.  A WaitEventSet cannot drop a socket, and libcurl's interest in its
 * sockets changes all the time.  So they are in an epoll set of our own, and
 * that set is one single socket to the WaitEventSet, made once per session.
 * A kernel other than Linux needs another body for a handful of functions.
 *
 * Idleness.  When libcurl loses interest in a socket, because its connection
 * waits for the next request, the socket stays in the epoll set: that saves two
 * system calls per request.  It leaves the set when something happens on it
 * meanwhile.  Whether an idle connection is fit for another request is found
 * out right before that is sent, by looking at the socket then.  libcurl tells
 * us which one it has chosen by its local port.
 *
 * Identity.  libcurl closes a socket that did not get connected by itself,
 * without a word (as of 7.88), and the number may then be somebody else's: a
 * client connection's, another extension's.  So a socket is known by its inode
 * as well, and nothing is done to a descriptor that is not the one we opened.
 *
 * Descriptors.  fd.c is asked for room before libcurl is entered; the callback
 * that opens a socket only counts.  Connections that are kept for later keep
 * their share.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/fd.h"

#include "http_sockets.h"

/* Events taken from the kernel at a time */
#define EVENT_BATCH 64

/*
 * What the pool itself keeps open: our epoll set, and libcurl's pair of sockets
 * to wake a multi handle up.  The WaitEventSet counts for itself.
 */
#define OWN_DESCRIPTORS 3

/* --- setting up and taking down --- */

static void
release_external(int count)
{
	while (count-- > 0)
		ReleaseExternalFD();
}

static bool
acquire_external(int count)
{
	for (int i = 0; i < count; i++)
	{
		if (!AcquireExternalFD())
		{
			release_external(i);
			return false;
		}
	}
	return true;
}

/* Says which limit keeps the kernel from opening another descriptor, or NULL. */
static const char *
kernel_limit(int error)
{
	switch (error)
	{
		case EMFILE:
			return "too many open files: the process's limit, \"ulimit -n\", is reached";
		case ENFILE:
			return "too many open files: the system's limit, \"fs.file-max\", is reached";
		default:
			return NULL;
	}
}

static void
set_empty(SendkitSockets *sockets)
{
	memset(sockets, 0, sizeof(*sockets));
	sockets->epoll_fd = -1;
}

/* Returns NULL, or in words which limit of fd.c's or the kernel's is reached. */
const char *
sendkit_sockets_init(SendkitSockets *sockets)
{
	const char *limit;

	set_empty(sockets);
	if (!acquire_external(OWN_DESCRIPTORS))
		return SENDKIT_SESSION_FULL;

	sockets->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (sockets->epoll_fd >= 0)
		return NULL;

	limit = kernel_limit(errno);
	release_external(OWN_DESCRIPTORS);
	return limit ? limit : "the kernel has no memory for another socket";
}

/*
 * Gives everything back, also of sockets never set up.  The connections
 * themselves must be closed already.
 */
void
sendkit_sockets_free(SendkitSockets *sockets)
{
	if (sockets->epoll_fd < 0)
		return;
	close(sockets->epoll_fd);
	free(sockets->sockets);
	release_external(sockets->reserved + OWN_DESCRIPTORS);
	set_empty(sockets);
}

/*
 * Asks fd.c for room for up to wanted open sockets in all.  Returns how many
 * there may be.  May raise an error: not for callbacks.
 */
int
sendkit_sockets_reserve(SendkitSockets *sockets, int wanted)
{
	while (sockets->reserved < wanted && AcquireExternalFD())
		sockets->reserved++;
	return Min(sockets->reserved, wanted);
}

/* Gives back to fd.c what is reserved but not in use. */
void
sendkit_sockets_release_unused(SendkitSockets *sockets)
{
	while (sockets->reserved > sockets->opened)
	{
		ReleaseExternalFD();
		sockets->reserved--;
	}
}

/* --- identity --- */

/* Returns a number that no other open socket has, or 0. */
static ino_t
inode_of(curl_socket_t fd)
{
	struct stat st;

	if (fstat(fd, &st) != 0 || !S_ISSOCK(st.st_mode))
		return 0;
	return st.st_ino;
}

static bool
is_still_ours(const SendkitSocket *entry, curl_socket_t fd)
{
	return entry->ours && entry->inode == inode_of(fd);
}

static void
forget_socket(SendkitSockets *sockets, SendkitSocket *entry)
{
	if (entry->ours)
		sockets->opened--;
	if (entry->http2)
		sockets->http2--;
	if (entry->unsettled)
		sockets->unsettled--;
	memset(entry, 0, sizeof(*entry));
}

/* Forgets the sockets that libcurl has closed by itself. */
static void
forget_closed(SendkitSockets *sockets)
{
	for (int fd = 0; fd < sockets->size; fd++)
	{
		SendkitSocket *entry = &sockets->sockets[fd];

		if (entry->ours && !is_still_ours(entry, fd))
			forget_socket(sockets, entry);
	}
}

/* --- what libcurl's callbacks ask for --- */

/* Returns the entry of a descriptor, or NULL if there is no memory for it. */
static SendkitSocket *
socket_entry(SendkitSockets *sockets, curl_socket_t fd)
{
	if (fd >= sockets->size)
	{
		/*
		 * all of it is looked at for each request: not much larger than
		 * needed
		 */
		int			size = Max(fd + 1, sockets->size + sockets->size / 2);
		SendkitSocket *grown = realloc(sockets->sockets, size * sizeof(SendkitSocket));

		if (grown == NULL)
			return NULL;
		memset(grown + sockets->size, 0, (size - sockets->size) * sizeof(SendkitSocket));
		sockets->sockets = grown;
		sockets->size = size;
	}
	return &sockets->sockets[fd];
}

/*
 * Opens a socket for libcurl (CURLOPT_OPENSOCKETFUNCTION).  Returns it, or
 * CURL_SOCKET_BAD, with sockets->refused telling why if it is for want of a
 * descriptor.
 */
curl_socket_t
sendkit_sockets_open(SendkitSockets *sockets, const struct curl_sockaddr *address)
{
	SendkitSocket *entry;
	int			fd;

	if (sockets->opened >= sockets->reserved)
		forget_closed(sockets);
	if (sockets->opened >= sockets->reserved)
	{
		sockets->refused = SENDKIT_SESSION_FULL;
		return CURL_SOCKET_BAD;
	}

	fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
	if (fd < 0)
	{
		sockets->refused = kernel_limit(errno);
		return CURL_SOCKET_BAD;
	}

	sockets->refused = NULL;
	entry = socket_entry(sockets, fd);
	if (entry == NULL)
	{
		close(fd);
		return CURL_SOCKET_BAD;
	}
	forget_socket(sockets, entry);
	entry->ours = true;
	entry->inode = inode_of(fd);
	sockets->opened++;
	return fd;
}

/* Closes one for libcurl (CURLOPT_CLOSESOCKETFUNCTION). */
int
sendkit_sockets_close(SendkitSockets *sockets, curl_socket_t fd)
{
	SendkitSocket *entry = socket_entry(sockets, fd);

	if (entry && entry->ours)
		forget_socket(sockets, entry);
	/* the kernel takes a closed socket out of the epoll set */
	return close(fd);
}

/* Tells epoll to watch the socket for these events, and nothing when that is so. */
static bool
register_events(SendkitSockets *sockets, curl_socket_t fd, SendkitSocket *entry,
				uint32 events)
{
	struct epoll_event event;
	int			op;

	if (entry->registered == events)
		return true;

	if (events == 0)
		op = EPOLL_CTL_DEL;
	else if (entry->registered == 0)
		op = EPOLL_CTL_ADD;
	else
		op = EPOLL_CTL_MOD;

	memset(&event, 0, sizeof(event));
	event.events = events;
	event.data.fd = fd;
	if (epoll_ctl(sockets->epoll_fd, op, fd, &event) != 0)
	{
		entry->registered = 0;
		return events == 0;
	}
	entry->registered = events;
	return true;
}

/*
 * Notes what libcurl waits for (CURLMOPT_SOCKETFUNCTION: CURL_POLL_IN and so
 * on).  Returns false if it cannot be waited for.
 */
bool
sendkit_sockets_watch(SendkitSockets *sockets, curl_socket_t fd, int what)
{
	SendkitSocket *entry = socket_entry(sockets, fd);
	uint32		events = 0;

	if (entry == NULL)
		return false;
	/* not seen for a while: may be another one by now */
	if (entry->ours && entry->registered == 0 && !is_still_ours(entry, fd))
		forget_socket(sockets, entry);

	entry->wanted = (what != CURL_POLL_REMOVE);
	if (!entry->wanted)
	{
		/* an idle connection stays in the set; libcurl's own tools do not */
		if (!entry->ours)
			register_events(sockets, fd, entry, 0);
		return true;
	}

	if (what & CURL_POLL_IN)
		events |= EPOLLIN | EPOLLRDHUP;
	if (what & CURL_POLL_OUT)
		events |= EPOLLOUT;
	return register_events(sockets, fd, entry, events);
}

/* Does libcurl wait for anything on a socket of ours? */
bool
sendkit_sockets_any_wanted(const SendkitSockets *sockets)
{
	for (int fd = 0; fd < sockets->size; fd++)
	{
		if (sockets->sockets[fd].ours && sockets->sockets[fd].wanted)
			return true;
	}
	return false;
}

/* --- what the connection that libcurl has chosen is like --- */

/*
 * Is one of these events there now, or has the socket ended?  A signal interrupts
 * even a poll() that does not wait.  Safe in a signal handler.
 */
static bool
has_event(curl_socket_t fd, short events)
{
	struct pollfd pfd = {.fd = fd,.events = events};
	int			result;

	do
		result = poll(&pfd, 1, 0);
	while (result < 0 && errno == EINTR);
	return result != 0;
}

/* Returns the local port of a socket of ours, or 0. */
static int
local_port_of(SendkitSocket *entry, curl_socket_t fd)
{
	union
	{
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	}			address = {.any = {0}};
	socklen_t	len = sizeof(address);

	if (entry->local_port == 0 && getsockname(fd, &address.any, &len) == 0)
		entry->local_port = ntohs(address.any.sa_family == AF_INET6 ?
								  address.v6.sin6_port : address.v4.sin_port);
	return entry->local_port;
}

/* Returns the next of our sockets with that local port behind fd, or -1. */
static curl_socket_t
next_with_port(const SendkitSockets *sockets, curl_socket_t fd, int local_port)
{
	while (++fd < sockets->size)
	{
		if (sockets->sockets[fd].ours &&
			local_port_of(&sockets->sockets[fd], fd) == local_port)
			return fd;
	}
	return -1;
}

/*
 * Is one of these events there now, on any socket with that local port?  There
 * is one, or one for each kind of address.  Yes, if there is none: not known.
 */
static bool
any_event(const SendkitSockets *sockets, int local_port, short events)
{
	curl_socket_t fd = next_with_port(sockets, -1, local_port);

	if (fd < 0)
		return true;
	for (; fd >= 0; fd = next_with_port(sockets, fd, local_port))
	{
		if (has_event(fd, events))
			return true;
	}
	return false;
}

/*
 * Is there nothing to be read, neither bytes nor the peer's end, from the socket
 * with this local port, which libcurl has chosen for a request?  No, if it cannot
 * be told.
 */
bool
sendkit_sockets_are_quiet(const SendkitSockets *sockets, int local_port)
{
	return !any_event(sockets, local_port, POLLIN | POLLRDHUP);
}

/* Has its peer ended it?  Yes, if it cannot be told. */
bool
sendkit_sockets_have_ended(const SendkitSockets *sockets, int local_port)
{
	return any_event(sockets, local_port, POLLRDHUP);
}

/* Its connection, which is new, speaks HTTP/2. */
void
sendkit_sockets_note_http2(SendkitSockets *sockets, int local_port)
{
	curl_socket_t fd = next_with_port(sockets, -1, local_port);

	if (fd >= 0 && !sockets->sockets[fd].http2)
	{
		sockets->sockets[fd].http2 = true;
		sockets->http2++;
		sockets->sockets[fd].unsettled = true;
		sockets->unsettled++;
	}
}

/*
 * Returns how many bytes have been written to a TCP socket.  The kernel may send
 * them later.
 */
static uint64
bytes_written(curl_socket_t fd)
{
	struct tcp_info info;
	socklen_t	len = sizeof(info);

	memset(&info, 0, sizeof(info));
	(void) getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len);
	return info.tcpi_bytes_sent - info.tcpi_bytes_retrans + info.tcpi_notsent_bytes;
}

/* The first request on this connection, which speaks HTTP/2, was sent. */
void
sendkit_sockets_note_first(SendkitSockets *sockets, int local_port)
{
	curl_socket_t fd = next_with_port(sockets, -1, local_port);

	if (fd >= 0)
		sockets->sockets[fd].written_at_first = bytes_written(fd);
}

static void
note_settled(SendkitSockets *sockets, SendkitSocket *entry)
{
	if (!entry->unsettled)
		return;
	entry->unsettled = false;
	sockets->unsettled--;
}

/*
 * Looks whether the settings that are awaited have come.  To be called whenever
 * libcurl may have read them.  They come first on an HTTP/2 connection, and are
 * acknowledged (RFC 9113, sections 3.4 and 6.5.3); nothing else is written after
 * the first request, as long as there is no second.  Settings that were
 * acknowledged before are missed: then the answer tells.
 */
void
sendkit_sockets_look_for_settings(SendkitSockets *sockets)
{
	for (int fd = 0; fd < sockets->size && sockets->unsettled > 0; fd++)
	{
		SendkitSocket *entry = &sockets->sockets[fd];
		uint64		written;

		if (!entry->unsettled)
			continue;
		written = bytes_written(fd);
		if (entry->written_at_first == 0)
			entry->written_at_first = written;
		else if (written > entry->written_at_first)
			note_settled(sockets, entry);
	}
}

/* An answer has come on the connection with that local port: the settings were first. */
void
sendkit_sockets_note_answer(SendkitSockets *sockets, int local_port)
{
	curl_socket_t fd;

	if (sockets->unsettled == 0)
		return;
	for (fd = next_with_port(sockets, -1, local_port); fd >= 0;
		 fd = next_with_port(sockets, fd, local_port))
		note_settled(sockets, &sockets->sockets[fd]);
}

/* --- events --- */

static int
action_of(uint32 events)
{
	int			action = 0;

	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP))
		action |= CURL_CSELECT_IN;
	if (events & EPOLLOUT)
		action |= CURL_CSELECT_OUT;
	if (events & EPOLLERR)
		action |= CURL_CSELECT_ERR;
	return action;
}

/* Fills in up to max events that are there now, without waiting.  Returns how many. */
int
sendkit_sockets_poll(SendkitSockets *sockets, SendkitSocketEvent *events, int max)
{
	struct epoll_event ready[EVENT_BATCH];
	int			nready;
	int			nevents = 0;

	/* a signal must not look like nothing having happened */
	do
		nready = epoll_wait(sockets->epoll_fd, ready, Min(max, EVENT_BATCH), 0);
	while (nready < 0 && errno == EINTR);

	for (int i = 0; i < nready; i++)
	{
		curl_socket_t fd = ready[i].data.fd;
		SendkitSocket *entry = socket_entry(sockets, fd);

		if (entry == NULL)
			continue;
		if (!entry->wanted)
		{
			/* idle: whoever is to use it will look */
			register_events(sockets, fd, entry, 0);
			continue;
		}
		events[nevents].fd = fd;
		events[nevents].action = action_of(ready[i].events);
		nevents++;
	}
	return nevents;
}

/* Closes all connections towards the network.  Safe in a signal handler. */
void
sendkit_sockets_shutdown(const SendkitSockets *sockets)
{
	for (int fd = 0; fd < sockets->size; fd++)
	{
		if (is_still_ours(&sockets->sockets[fd], fd))
			shutdown(fd, SHUT_RDWR);
	}
}

/*
 * Ends the connection that floods libcurl, which was entered for this socket; or,
 * for its timer (CURL_SOCKET_TIMEOUT), those that have something to be read: a
 * flood always has.  Safe in a signal handler.
 */
void
sendkit_sockets_shutdown_flood(const SendkitSockets *sockets, curl_socket_t which)
{
	for (int fd = 0; fd < sockets->size; fd++)
	{
		if (which == CURL_SOCKET_TIMEOUT ?
			!sockets->sockets[fd].wanted || !has_event(fd, POLLIN) : which != fd)
			continue;
		if (is_still_ours(&sockets->sockets[fd], fd))
			shutdown(fd, SHUT_RDWR);
	}
}
