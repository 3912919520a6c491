/*-------------------------------------------------------------------------
 *
 * bare.c
 *	  The cheapest way to make one call after the other: one libcurl handle.
 *
 * usage: bare BASE_URL KEY [CA_FILE]
 *
 * Reads numbers from standard input, one per line.  For each, makes so many
 * calls and prints what they took: nanoseconds of wall time, and of this
 * process's CPU time.
 *
 *-------------------------------------------------------------------------
 */
#include "caller.h"

int
main(int argc, char **argv)
{
	Answer		answer;
	CURL	   *easy;
	char		line[64];
	long		id = 0;

	if (argc < 3)
		die("usage: bare BASE_URL KEY [CA_FILE]");
	curl_global_init(CURL_GLOBAL_DEFAULT);
	easy = make_handle(make_headers(argv[2]), argc > 3 ? argv[3] : NULL, &answer);

	while (fgets(line, sizeof(line), stdin))
	{
		long		last = id + atol(line);
		int64_t		wall = read_clock(CLOCK_MONOTONIC);
		int64_t		cpu = read_clock(CLOCK_PROCESS_CPUTIME_ID);

		while (id < last)
		{
			CURLcode	code;

			set_id(easy, argv[1], "w", ++id);
			answer.len = 0;
			code = curl_easy_perform(easy);
			if (code != CURLE_OK)
				die(curl_easy_strerror(code));
			if (!is_deleted(easy, &answer))
				die("unexpected answer");
		}
		printf("%lld %lld\n",
			   (long long) (read_clock(CLOCK_MONOTONIC) - wall),
			   (long long) (read_clock(CLOCK_PROCESS_CPUTIME_ID) - cpu));
		fflush(stdout);
	}
	return 0;
}
