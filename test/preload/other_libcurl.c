/*
 * Preloaded into a server: another libcurl than the one that is installed.
 *
 * CURL_LACKS is a list of what it was built without: "rtsp" (as the minimal
 * package of some distributions is), "http2"; and, as "7.76.1", of which version it
 * is, at run time: what came later is then unknown to it; and "proxy", if it takes
 * one and says nothing, but does not use it.  For everything else this is the real
 * one.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <curl/curl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#undef curl_easy_setopt
#undef curl_multi_setopt

static const char *
lacks(const char *what)
{
	const char *list = getenv("CURL_LACKS");

	return list ? strstr(list, what) : NULL;
}

/* As version_num counts; 0 if it is the real one's */
static unsigned int
version(void)
{
	const char *list = getenv("CURL_LACKS");
	unsigned int major,
				minor,
				patch;

	if (list == NULL || sscanf(list, "%u.%u.%u", &major, &minor, &patch) != 3)
		return 0;
	return major << 16 | minor << 8 | patch;
}

/* What is told of the version, without what it lacks */
curl_version_info_data *
curl_version_info(CURLversion age)
{
	static curl_version_info_data info;
	static const char *protocols[64];
	curl_version_info_data *(*real) (CURLversion) = dlsym(RTLD_NEXT, "curl_version_info");
	int			n = 0;

	info = *real(age);
	for (int i = 0; info.protocols[i]; i++)
	{
		if (!(lacks("rtsp") && strcmp(info.protocols[i], "rtsp") == 0))
			protocols[n++] = info.protocols[i];
	}
	protocols[n] = NULL;
	info.protocols = protocols;
	if (lacks("http2"))
		info.features &= ~CURL_VERSION_HTTP2;
	if (version() > 0)
		info.version_num = version();
	return &info;
}

/* Which options came with which version, of those that somebody might use */
static const struct
{
	int			option;			/* its number, without its type */
	unsigned int version;
}			newer[] = {
	{312, 0x075000},			/* CURLOPT_PREREQFUNCTION */
	{313, 0x075000},			/* CURLOPT_PREREQDATA */
	{318, 0x075500},			/* CURLOPT_PROTOCOLS_STR */
	{319, 0x075500},			/* CURLOPT_REDIR_PROTOCOLS_STR */
	{321, 0x075700},			/* CURLOPT_CA_CACHE_TIMEOUT */
	{322, 0x075700},			/* CURLOPT_QUICK_EXIT */
	{323, 0x080200},			/* CURLOPT_HAPROXY_CLIENT_IP */
	{324, 0x080900},			/* CURLOPT_SERVER_RESPONSE_TIMEOUT_MS */
};

CURLcode
curl_easy_setopt(CURL *easy, CURLoption option, ...)
{
	CURLcode	(*real) (CURL *, CURLoption,...) = dlsym(RTLD_NEXT, "curl_easy_setopt");
	va_list		arguments;
	void	   *value;

	/* a long, a pointer, an off_t: all have the size of a pointer where this runs */
	va_start(arguments, option);
	value = va_arg(arguments, void *);
	va_end(arguments);

	if (lacks("proxy") && option == CURLOPT_PROXY)
		value = "";
	if (lacks("rtsp") && option == CURLOPT_RTSP_REQUEST)
		return CURLE_UNKNOWN_OPTION;
	if (lacks("http2") && option == CURLOPT_HTTP_VERSION &&
		(long) value >= CURL_HTTP_VERSION_2_0)
		return CURLE_UNSUPPORTED_PROTOCOL;
	for (unsigned int i = 0; version() > 0 && i < sizeof(newer) / sizeof(newer[0]); i++)
	{
		if (option % 10000 == newer[i].option && version() < newer[i].version)
			return CURLE_UNKNOWN_OPTION;
	}
	return real(easy, option, value);
}

CURLMcode
curl_multi_setopt(CURLM *multi, CURLMoption option, ...)
{
	CURLMcode	(*real) (CURLM *, CURLMoption,...) = dlsym(RTLD_NEXT, "curl_multi_setopt");
	va_list		arguments;
	void	   *value;

	va_start(arguments, option);
	value = va_arg(arguments, void *);
	va_end(arguments);
	/* CURLMOPT_NETWORK_CHANGED, CURLMOPT_NOTIFYFUNCTION, ..., CURLMOPT_QUICK_EXIT */
	if (version() > 0 && version() < 0x081000 && option % 10000 >= 17)
		return CURLM_UNKNOWN_OPTION;
	return real(multi, option, value);
}

/* A library without HTTP/2 does not offer it by itself, either. */
CURL *
curl_easy_init(void)
{
	CURL	   *(*real) (void) = dlsym(RTLD_NEXT, "curl_easy_init");
	CURL	   *easy = real();

	if (easy && lacks("http2"))
		curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_1_1);
	return easy;
}
