/*-------------------------------------------------------------------------
 *
 * http_probe.c
 *	  What a transfer finds on its way, when that is all it is for.
 *
 * A probe is a request that goes all the way but the last step: its transfer
 * resolves, connects and shakes hands like any other, by the same route, and is
 * ended when it is about to send (http_transfer.c).  What libcurl can be asked
 * at that moment is asked; some things it tells only in the texts that it has
 * for people.  There is no key in any of this.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "http_probe.h"

/* --- what libcurl says by itself --- */

static void
note_text(SendkitHttpProbe *probe, const char *line)
{
	static const char tls[] = "SSL connection using ";

	/* "SSL connection using TLSv1.3 / TLS_AES_256_GCM_SHA384" */
	if (strncmp(line, tls, sizeof(tls) - 1) == 0)
		strlcpy(probe->tls, line + sizeof(tls) - 1, sizeof(probe->tls));
	/* to a SOCKS proxy, bytes go unmentioned */
	else if (strncmp(line, "SOCKS", 5) == 0)
		probe->connected = true;
}

/*
 * CURLOPT_DEBUGFUNCTION: texts, and bytes on the wire.  That bytes leave is the
 * one sign of a TCP connection which libcurl gives before all is well: its
 * times, in 7.88 at least, are only known in the end.
 */
static int
on_debug(CURL *easy pg_attribute_unused(), curl_infotype type, char *data, size_t size,
		 void *arg)
{
	SendkitHttpProbe *probe = (SendkitHttpProbe *) arg;
	char		line[256];

	switch (type)
	{
		case CURLINFO_TEXT:
			strlcpy(line, data, Min(size + 1, sizeof(line)));
			line[strcspn(line, "\r\n")] = '\0';
			note_text(probe, line);
			break;
		case CURLINFO_SSL_DATA_OUT:
			probe->shaking_hands = true;
			probe->connected = true;
			break;
		case CURLINFO_HEADER_OUT:
			/* CONNECT, to a proxy */
			probe->connected = true;
			break;
		default:
			break;
	}
	return 0;
}

/*
 * Makes a handle, otherwise ready for a request, one that connects anew and
 * tells what it finds.  Returns false, with *fault telling why, if it can't.
 */
bool
sendkit_probe_set_options(CURL *easy, SendkitHttpProbe *probe, SendkitCurlFault *fault)
{
	SETOPT(easy, CURLOPT_FRESH_CONNECT, 1L);
	SETOPT(easy, CURLOPT_FORBID_REUSE, 1L);
	SETOPT(easy, CURLOPT_CERTINFO, 1L);
	SETOPT(easy, CURLOPT_DEBUGFUNCTION, on_debug);
	SETOPT(easy, CURLOPT_DEBUGDATA, probe);
	SETOPT(easy, CURLOPT_VERBOSE, 1L);
	return true;
}

/* --- what it can be asked --- */

static int64
time_of(CURL *easy, CURLINFO what)
{
	curl_off_t	us = 0;

	curl_easy_getinfo(easy, what, &us);
	return us;
}

/* The server's own certificate is the first; each is a list of "name:value". */
static void
note_certificate(CURL *easy, SendkitHttpProbe *probe)
{
	struct curl_certinfo *info = NULL;

	if (curl_easy_getinfo(easy, CURLINFO_CERTINFO, &info) != CURLE_OK ||
		info == NULL || info->num_of_certs < 1)
		return;
	for (struct curl_slist *field = info->certinfo[0]; field; field = field->next)
	{
		if (strncmp(field->data, "Issuer:", 7) == 0)
			strlcpy(probe->issuer, field->data + 7, sizeof(probe->issuer));
		else if (strncmp(field->data, "Expire date:", 12) == 0)
			strlcpy(probe->expires, field->data + 12, sizeof(probe->expires));
	}
}

/* In order of precedence, as http_route.c sets them. */
static void
note_trust(const SendkitRoute *route, SendkitHttpProbe *probe)
{
	const curl_version_info_data *defaults = curl_version_info(CURLVERSION_NOW);
	const char *trust = NULL;

	if (route->ca_file[0] != '\0')
		trust = route->ca_file;
	else if (route->ca_folder)
		trust = route->ca_folder;
	else if (defaults->age >= CURLVERSION_SEVENTH)
		trust = defaults->cainfo ? defaults->cainfo : defaults->capath;
	strlcpy(probe->trust, trust ? trust : "libcurl's own", sizeof(probe->trust));
}

static void
note_round_trip(CURL *easy, SendkitHttpProbe *probe)
{
	curl_socket_t fd = CURL_SOCKET_BAD;
	struct tcp_info info;
	socklen_t	size = sizeof(info);

	if (curl_easy_getinfo(easy, CURLINFO_ACTIVESOCKET, &fd) == CURLE_OK &&
		fd != CURL_SOCKET_BAD &&
		getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0)
		probe->round_trip_us = info.tcpi_rtt;
}

/*
 * Notes what there is to be known when a request is about to leave.  To be
 * called inside libcurl, which must not let it leave.
 */
void
sendkit_probe_ready(CURL *easy, bool http2, SendkitHttpProbe *probe)
{
	probe->http2 = http2;
	probe->connected = true;
	probe->ready = true;
	probe->ready_us = Max(time_of(easy, CURLINFO_CONNECT_TIME_T),
						  time_of(easy, CURLINFO_APPCONNECT_TIME_T));
	note_round_trip(easy, probe);
	note_certificate(easy, probe);
}

/* Notes what else is known when the handle's transfer has ended. */
void
sendkit_probe_end(CURL *easy, const SendkitRoute *route, SendkitHttpProbe *probe)
{
	const char *address = NULL;
	long		port = 0;
	long		proxy_status = 0;

	curl_easy_getinfo(easy, CURLINFO_PRIMARY_IP, &address);
	curl_easy_getinfo(easy, CURLINFO_PRIMARY_PORT, &port);
	curl_easy_getinfo(easy, CURLINFO_HTTP_CONNECTCODE, &proxy_status);
	strlcpy(probe->address, address ? address : "", sizeof(probe->address));
	probe->port = (int) port;
	probe->proxy_status = (int) proxy_status;
	probe->resolved_us = time_of(easy, CURLINFO_NAMELOOKUP_TIME_T);
	note_trust(route, probe);
}
