/*-------------------------------------------------------------------------
 *
 * retry_after.c
 *	  How long an answer asks to wait.
 *
 * Retry-After gives seconds or a date (RFC 9110, section 10.2.3).  A date is
 * the server's: how far it is away is told by the Date of the same answer, since
 * our clock may differ.  Only the three forms of a date that the RFC knows
 * (section 5.6.7) are read, all of them with years of at most four digits, so
 * that nothing can overflow.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "datatype/timestamp.h"
#include "utils/datetime.h"

#include "retry_after.h"

/* A date in its parts, as they are read */
typedef struct HttpDate
{
	int			year;
	char		month[4];
	int			day;
	int			hour;
	int			minute;
	int			second;
	int			len;			/* of the text that was read; 0: not to its
								 * end */
} HttpDate;

/* Returns 1 to 12, or 0 for no month's name. */
static int
month_number(const char *name)
{
	for (int i = 0; i < MONTHS_PER_YEAR; i++)
	{
		if (strcmp(name, months[i]) == 0)
			return i + 1;
	}
	return 0;
}

/* Two digits of a year, as in 1999 and 2069 */
static int
whole_year(int year)
{
	return year < 70 ? year + 2000 : year + 1900;
}

/* Reads any of the three forms; whether the numbers make sense is not asked. */
static bool
scan_date(const char *value, HttpDate *date)
{
	memset(date, 0, sizeof(*date));
	(void) sscanf(value, "%*3[A-Za-z], %2d %3[A-Za-z] %4d %2d:%2d:%2d GMT%n",
				  &date->day, date->month, &date->year,
				  &date->hour, &date->minute, &date->second, &date->len);
	if (date->len == 0)
	{
		(void) sscanf(value, "%*9[A-Za-z], %2d-%3[A-Za-z]-%2d %2d:%2d:%2d GMT%n",
					  &date->day, date->month, &date->year,
					  &date->hour, &date->minute, &date->second, &date->len);
		date->year = whole_year(date->year);
	}
	if (date->len == 0)
		(void) sscanf(value, "%*3[A-Za-z] %3[A-Za-z] %2d %2d:%2d:%2d %4d%n",
					  date->month, &date->day,
					  &date->hour, &date->minute, &date->second, &date->year, &date->len);
	return date->len > 0 && value[date->len] == '\0';
}

static bool
is_in(int value, int low, int high)
{
	return value >= low && value <= high;
}

/* Reads a date into seconds since 1970.  Returns whether it is one. */
static bool
parse_date(const char *value, int64 *seconds)
{
	HttpDate	date;
	int			month;

	if (!scan_date(value, &date))
		return false;
	month = month_number(date.month);
	/* 60: a leap second */
	if (month == 0 || !is_in(date.year, 1, 9999) ||
		!is_in(date.day, 1, day_tab[isleap(date.year)][month - 1]) ||
		!is_in(date.hour, 0, HOURS_PER_DAY - 1) ||
		!is_in(date.minute, 0, MINS_PER_HOUR - 1) ||
		!is_in(date.second, 0, SECS_PER_MINUTE))
		return false;
	*seconds = (int64) (date2j(date.year, month, date.day) - UNIX_EPOCH_JDATE) * SECS_PER_DAY +
		date.hour * SECS_PER_HOUR + date.minute * SECS_PER_MINUTE + date.second;
	return true;
}

/* A number too large to count is as good as the largest. */
static int64
parse_seconds(const char *digits)
{
	const int64 most = PG_INT64_MAX / 1000;
	int64		seconds = 0;

	for (const char *p = digits; *p; p++)
	{
		if (seconds > (most - 9) / 10)
			return most;
		seconds = seconds * 10 + (*p - '0');
	}
	return seconds;
}

/*
 * Takes the values of an answer's headers Retry-After and, or NULL, Date.  Returns
 * how many milliseconds the answer asks to wait, which is 0 when the time is
 * past; or -1 if nobody can tell.  Cannot raise an error.
 */
int64
sendkit_retry_after_ms(const char *retry_after, const char *date)
{
	int64		until;
	int64		from;

	if (retry_after[0] != '\0' &&
		retry_after[strspn(retry_after, "0123456789")] == '\0')
		return parse_seconds(retry_after) * 1000;
	if (!parse_date(retry_after, &until))
		return -1;
	if (date == NULL || !parse_date(date, &from))
		from = (int64) time(NULL);
	return Max(until - from, 0) * 1000;
}
