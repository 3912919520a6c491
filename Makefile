# sendkit: build with PGXS. The version number lives in sendkit.control alone.

EXTENSION = sendkit
EXTVERSION = $(shell sed -n "s/^default_version *= *'\(.*\)'.*/\1/p" sendkit.control)

MODULE_big = sendkit
OBJS = \
	src/api.o \
	src/check.o \
	src/check_credential.o \
	src/check_queue.o \
	src/check_way.o \
	src/clock.o \
	src/credential.o \
	src/delete.o \
	src/details.o \
	src/dispatch.o \
	src/extension.o \
	src/guc.o \
	src/guc_guard.o \
	src/hidden_value.o \
	src/hiding.o \
	src/home.o \
	src/http.o \
	src/http_entry.o \
	src/http_fault.o \
	src/http_pool.o \
	src/http_probe.o \
	src/http_route.o \
	src/http_sockets.o \
	src/http_tls.o \
	src/http_transfer.o \
	src/platform_key.o \
	src/queue.o \
	src/queue_books.o \
	src/queue_deliver.o \
	src/queue_enqueue.o \
	src/queue_person.o \
	src/queue_process.o \
	src/queue_report.o \
	src/queue_run.o \
	src/queue_table.o \
	src/response.o \
	src/retry_after.o \
	src/sendkit.o \
	src/text.o \
	src/url.o \
	src/user_mapping.o \
	src/worker.o \
	src/worker_complain.o \
	src/worker_database.o \
	src/worker_launcher.o \
	src/worker_wake.o \
	src/workspace.o
LOCAL_HEADERS = $(wildcard src/*.h)

DATA = $(wildcard sendkit--*.sql)
EXTRA_CLEAN = META.json dist
PGFILEDESC = "sendkit - revoke SendKit API keys from SQL"

REGRESS = $(patsubst sql/%.sql,%,$(sort $(wildcard sql/*.sql)))
REGRESS_OPTS = --load-extension=sendkit --launcher=test/launcher

# TAP tests start servers of their own, from the installed extension. They need
# IPC::Run, which not every machine has: "make installcheck" runs them where it
# is found, scripts/test always.
ifneq ($(shell perl -MIPC::Run -e 'print 1' 2>/dev/null),)
TAP_TESTS = 1
PROVE_TESTS ?= test/t/*.pl
endif

PG_CONFIG ?= pg_config
ifeq ($(wildcard $(shell $(PG_CONFIG) --includedir-server 2>/dev/null)/postgres.h),)
$(error postgres.h not found: install the server development package of PostgreSQL, such as postgresql-server-dev-15, or set PG_CONFIG)
endif
PGXS := $(shell $(PG_CONFIG) --pgxs)

# Isolation tests, in test/specs and test/expected, run where PostgreSQL's
# development package has what runs them, as Debian's have since 15.
ISOLATION_OPTS = --inputdir=test --load-extension=sendkit --launcher=test/launcher
ifneq ($(wildcard $(dir $(PGXS))../test/isolation/pg_isolation_regress*),)
ISOLATION = $(patsubst test/specs/%.spec,%,$(sort $(wildcard test/specs/*.spec)))
endif

# libcurl, by pkg-config or else by its own curl-config
PKG_CONFIG ?= pkg-config
CURL_CONFIG ?= curl-config
ifeq ($(shell $(PKG_CONFIG) --exists libcurl 2>/dev/null && echo yes),yes)
CURL_CFLAGS := $(shell $(PKG_CONFIG) --cflags libcurl)
CURL_LIBS := $(shell $(PKG_CONFIG) --libs libcurl)
else ifneq ($(shell $(CURL_CONFIG) --libs 2>/dev/null),)
CURL_CFLAGS := $(shell $(CURL_CONFIG) --cflags)
CURL_LIBS := $(shell $(CURL_CONFIG) --libs)
else
NO_CURL = libcurl not found: install its development package, such as libcurl4-openssl-dev, or set PKG_CONFIG or CURL_CONFIG
endif

# with OpenSSL, as far as curl-config is there to tell
CURL_TLS := $(shell $(CURL_CONFIG) --ssl-backends 2>/dev/null)
ifneq ($(CURL_TLS),)
ifeq ($(findstring OpenSSL,$(CURL_TLS)),)
NO_CURL = libcurl is that of $(CURL_TLS): install the development package of the one with OpenSSL, such as libcurl4-openssl-dev
endif
endif

ifneq ($(NO_CURL),)
ifeq ($(filter clean distclean,$(MAKECMDGOALS)),)
$(error $(NO_CURL))
endif
endif

PG_CPPFLAGS = -DSENDKIT_VERSION='"$(EXTVERSION)"' $(CURL_CFLAGS)
PG_CFLAGS = -std=gnu11
SHLIB_LINK = $(CURL_LIBS)

include $(PGXS)

# Without the stand-in API every test would fail, and none say why.
installcheck: standin-works
.PHONY: standin-works
standin-works:
	@$(srcdir)/test/launcher true

# PGXS empties it
PROVE_FLAGS += -I test/perl

# What PGXN takes, of the last commit. The version has three numbers there.
DISTVERSION = $(EXTVERSION)$(if $(word 3,$(subst ., ,$(EXTVERSION))),,.0)

META.json: META.json.in sendkit.control
	sed 's/@EXTVERSION@/$(EXTVERSION)/g; s/@DISTVERSION@/$(DISTVERSION)/g' $< >$@

dist: META.json
	mkdir -p dist
	git archive --format=zip --prefix=sendkit-$(DISTVERSION)/ --add-file=META.json \
		-o dist/sendkit-$(DISTVERSION).zip HEAD

.PHONY: dist

# PGXS tracks no headers: a changed one rebuilds everything, which takes seconds.
$(OBJS) $(OBJS:.o=.bc): $(LOCAL_HEADERS) sendkit.control
