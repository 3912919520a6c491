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
 * waits for the next request, the socket stays in the epoll set.  That saves
 * two system calls per request, and it tells at once whether the idle
 * connection has become readable.  If so and it speaks HTTP/1, it must not be
 * used again: what waits there is the end of the connection, or bytes that
 * libcurl would take for the answer to the next request (it does, as of 7.88)
 * and so report a key as deleted that is not.  libcurl cannot be told to drop
 * a certain connection, but it drops one whose socket is at its end.  So the
 * socket is replaced, under its number, by one whose peer is gone.  An HTTP/2
 * connection may be readable at any time (pings, settings), and nothing on it
 * can be taken for the answer to a request not yet sent: it is dropped only
 * when the server has ended it.
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

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/fd.h"

#include "http_sockets.h"

/* What idle connections are watched for: bytes, and the peer's end */
#define IDLE_EVENTS (EPOLLIN | EPOLLRDHUP)

/* Events taken from the kernel at a time */
#define EVENT_BATCH 64

/*
 * What the pool itself keeps open: our epoll set, the dead socket, and
 * libcurl's pair of sockets to wake a multi handle up.  The WaitEventSet
 * counts for itself.
 */
#define OWN_DESCRIPTORS 4

/* --- setting up and taking down --- */

/* Returns a socket whose peer is gone: reading from it finds the end at once. */
static int
make_dead_socket(void)
{
	int			pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0)
		return -1;
	close(pair[1]);
	return pair[0];
}

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
	sockets->dead_fd = -1;
}

const char *
sendkit_sockets_init(SendkitSockets *sockets)
{
	const char *limit;

	set_empty(sockets);
	if (!acquire_external(OWN_DESCRIPTORS))
		return SENDKIT_SESSION_FULL;

	sockets->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (sockets->epoll_fd >= 0)
		sockets->dead_fd = make_dead_socket();
	if (sockets->dead_fd >= 0)
		return NULL;

	limit = kernel_limit(errno);
	sendkit_sockets_free(sockets);
	return limit ? limit : "the kernel has no memory for another socket";
}

void
sendkit_sockets_free(SendkitSockets *sockets)
{
	if (sockets->epoll_fd >= 0)
		close(sockets->epoll_fd);
	if (sockets->dead_fd >= 0)
		close(sockets->dead_fd);
	free(sockets->sockets);
	release_external(sockets->reserved + OWN_DESCRIPTORS);
	set_empty(sockets);
}

int
sendkit_sockets_reserve(SendkitSockets *sockets, int wanted)
{
	while (sockets->reserved < wanted && AcquireExternalFD())
		sockets->reserved++;
	return Min(sockets->reserved, wanted);
}

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
	if (entry->dead)
		sockets->dead--;
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
		int			size = Max(64, Max(fd + 1, sockets->size * 2));
		SendkitSocket *grown = realloc(sockets->sockets, size * sizeof(SendkitSocket));

		if (grown == NULL)
			return NULL;
		memset(grown + sockets->size, 0, (size - sockets->size) * sizeof(SendkitSocket));
		sockets->sockets = grown;
		sockets->size = size;
	}
	return &sockets->sockets[fd];
}

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
		if (!register_events(sockets, fd, entry, entry->ours ? IDLE_EVENTS : 0))
			forget_socket(sockets, entry);	/* closed already */
		return true;
	}

	if (what & CURL_POLL_IN)
		events |= IDLE_EVENTS;
	if (what & CURL_POLL_OUT)
		events |= EPOLLOUT;
	return register_events(sockets, fd, entry, events);
}

void
sendkit_sockets_set_multiplexed(SendkitSockets *sockets, curl_socket_t fd)
{
	if (fd >= 0 && fd < sockets->size && sockets->sockets[fd].ours)
		sockets->sockets[fd].multiplexed = true;
}

/* --- events --- */

/*
 * An idle connection has become readable, or was hung up.  Either way it need
 * not be reported again, unless its peer is still to end it.
 */
static void
handle_idle_event(SendkitSockets *sockets, curl_socket_t fd, SendkitSocket *entry,
				  uint32 events)
{
	bool		ended = (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;

	if (entry->ours && (ended || !entry->multiplexed))
	{
		/* the kernel forgets the old socket, and with it its registration */
		if (dup3(sockets->dead_fd, fd, O_CLOEXEC) >= 0)
		{
			entry->registered = 0;
			entry->inode = inode_of(fd);
			entry->dead = true;
			sockets->dead++;
		}
	}
	else
		register_events(sockets, fd, entry, entry->ours ? EPOLLRDHUP : 0);
}

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

/*
 * Takes up to max events from the kernel: deals with those of idle connections,
 * and fills in the others.  Returns how many those are, and in *taken how many
 * there were in all.
 */
static int
take_events(SendkitSockets *sockets, SendkitSocketEvent *events, int max, int *taken)
{
	struct epoll_event ready[EVENT_BATCH];
	int			nevents = 0;

	*taken = epoll_wait(sockets->epoll_fd, ready, Min(max, EVENT_BATCH), 0);
	for (int i = 0; i < *taken; i++)
	{
		curl_socket_t fd = ready[i].data.fd;
		SendkitSocket *entry = socket_entry(sockets, fd);

		if (entry == NULL)
			continue;
		if (!entry->wanted)
		{
			handle_idle_event(sockets, fd, entry, ready[i].events);
			continue;
		}
		events[nevents].fd = fd;
		events[nevents].action = action_of(ready[i].events);
		nevents++;
	}
	return nevents;
}

int
sendkit_sockets_poll(SendkitSockets *sockets, SendkitSocketEvent *events, int max)
{
	int			taken;

	return take_events(sockets, events, max, &taken);
}

void
sendkit_sockets_drop_unsafe(SendkitSockets *sockets)
{
	/* events that libcurl waits for are reported again */
	SendkitSocketEvent later[EVENT_BATCH];
	int			taken = EVENT_BATCH;

	/* the kernel reports another batch each time, until it has been round */
	for (int seen = 0; taken == EVENT_BATCH && seen <= sockets->opened; seen += taken)
		(void) take_events(sockets, later, EVENT_BATCH, &taken);
}

void
sendkit_sockets_shutdown(const SendkitSockets *sockets)
{
	for (int fd = 0; fd < sockets->size; fd++)
	{
		if (is_still_ours(&sockets->sockets[fd], fd))
			shutdown(fd, SHUT_RDWR);
	}
}
