# shellcheck shell=bash
#
# What the scripts beside this file share: a machine with everything that is
# needed, and on it a private folder with a copy of the source tree and a
# private PostgreSQL.
#
# The machine's own PostgreSQL is only read. Its programs find their libraries
# and data relative to themselves, so a copy of its installation, with the same
# folders below another root, is an installation of its own: the extension can
# be installed there without root's rights, on every version, and no existing
# cluster ever sees it.
#
# Servers refuse to run as root, and no test needs its rights. So root works as
# "nobody" here, and anybody else under their own name; only installing packages
# takes root, or sudo.

scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
tree=${scripts%/*}

# The programs that the packages bring come first, whatever else there may be.
PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH

system_pg_config=   # the machine's PostgreSQL
work=               # the private folder, removed at the end
src=                # in it, the copy of the source tree
pgbin=              # and the private PostgreSQL's programs
pg_config=          # one of them
worker=()           # command prefix that turns into the user who works here

say() {
	echo "== $*"
}

die() {
	echo "${0##*/}: $*" >&2
	exit 1
}

# --- the machine ---------------------------------------------------------------

# Finds the caller's PG_CONFIG, or else that of the newest installed server.
find_postgres() {
	local server

	system_pg_config=${PG_CONFIG:-}
	if [ -n "$system_pg_config" ]; then
		command -v "$system_pg_config" >/dev/null || die "no such PG_CONFIG: $PG_CONFIG"
		return
	fi
	server=$(printf '%s\n' /usr/lib/postgresql/*/bin/postgres | sort -V | tail -n 1)
	[ ! -x "$server" ] || system_pg_config=${server%/*}/pg_config
}

missing_postgres_packages() {
	local version

	if [ -z "$system_pg_config" ]; then
		echo postgresql-%v postgresql-server-dev-%v
	elif [ ! -e "$("$system_pg_config" --pgxs)" ]; then
		version=$("$system_pg_config" --version | sed 's/^PostgreSQL \([0-9]*\).*/\1/')
		echo "postgresql-server-dev-$version"
	fi
}

missing_build_packages() {
	[ -e /usr/include/stdio.h ] || echo libc6-dev
	command -v gcc >/dev/null || echo gcc
	command -v make >/dev/null || echo make
	command -v pkg-config >/dev/null || echo pkg-config
	pkg-config --exists libcurl 2>/dev/null || curl-config --version >/dev/null 2>&1 ||
		echo libcurl4-openssl-dev
}

# What the stand-in API runs on.
missing_standin_packages() {
	python3 -c 'import asyncio, ssl' 2>/dev/null || echo python3
	command -v openssl >/dev/null || echo openssl
}

# Not every version of PostgreSQL has a package of pg_cron, and its test does
# without. Where apt knows no packages yet, it will.
missing_pg_cron() {
	local package=postgresql-%v-cron version

	if [ -n "$system_pg_config" ]; then
		[ ! -e "$("$system_pg_config" --pkglibdir)/pg_cron.so" ] || return 0
		version=$("$system_pg_config" --version | sed 's/^PostgreSQL \([0-9]*\).*/\1/')
		package=postgresql-$version-cron
		if apt-cache show postgresql-common >/dev/null 2>&1 &&
			! apt-cache show "$package" >/dev/null 2>&1; then
			return 0
		fi
	fi
	echo "$package"
}

missing_test_packages() {
	[ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
	perl -MIPC::Run -e 1 2>/dev/null || echo libipc-run-perl
	python3 -c 'import h2' 2>/dev/null || echo python3-h2
	command -v nghttpx >/dev/null || echo nghttp2-proxy
	missing_pg_cron
}

# Prints the Debian packages without which the given kinds of work can't be done.
missing_packages() {
	local kind

	for kind; do
		"missing_${kind}_packages"
	done
}

# Makes the machine fit for the given kinds of work: those of the functions above.
need() {
	local missing as_root=()

	find_postgres
	missing=$(missing_packages "$@" | xargs)
	[ -n "$missing" ] || return 0
	command -v apt-get >/dev/null ||
		die "install these Debian packages, or their like, first: $missing"
	if [ "$EUID" != 0 ]; then
		command -v sudo >/dev/null ||
			die "there is no sudo; install these packages first: $missing"
		as_root=(sudo)
	fi
	# shellcheck disable=SC2086 # a list of words
	"${as_root[@]}" "$scripts/install-packages" $missing ||
		die "could not install packages: ${missing//%v/NN}"

	find_postgres
	missing=$(missing_packages "$@" | xargs)
	[ -z "$missing" ] || die "installed, but not found: $missing"
}

# --- the private folder ----------------------------------------------------------

# Makes the private folder, and sees to it that nothing is left at the end,
# however that comes about.
make_work() {
	local user

	# Out of our own folder, see our_processes, and where any user may be.
	cd /
	work=$(mktemp -d "${TMPDIR:-/tmp}/sendkit.XXXXXX")
	trap leave EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
	work=$(cd "$work" && pwd -P)
	# The path of a server's socket, somewhere below, may have 107 bytes.
	[ ${#work} -le 70 ] || die "TMPDIR is too long for socket paths: $work"

	if [ "$EUID" = 0 ]; then
		chown nobody "$work"
		worker=(setpriv "--reuid=nobody" "--regid=$(id -g nobody)" --clear-groups)
	fi
	user=$(as_worker id -un)
	# None of the caller's environment: neither PG* and proxy variables nor locale.
	worker+=(env -C "$work" -i "HOME=$work" "TMPDIR=$work/tmp" "USER=$user"
		"PATH=$PATH" LC_ALL=C.UTF-8)
	as_worker mkdir "$work/tmp" ||
		die "$user cannot work in $work: set TMPDIR to another folder"
	copy_tree
}

# Runs a command as the user who works here.
as_worker() {
	"${worker[@]}" "$@"
}

# As a tar that is read by us and written by that user, who may see nothing of
# the original. What a build in the original has left is cleaned away later.
copy_tree() {
	src=$work/src
	as_worker mkdir "$src"
	tar -C "$tree" --exclude-vcs -cf - . | as_worker tar -C "$src" --no-same-owner -xf -
}

# Our processes are those whose current folder is ours or one below: as_worker
# starts them there, and servers go to their data folder.
our_processes() {
	find /proc -mindepth 2 -maxdepth 2 -name cwd \
		\( -lname "$work" -o -lname "$work/*" \) -printf '%h\n' 2>/dev/null | sed 's:^/proc/::' || :
}

# SIGQUIT is a server's immediate shutdown, which takes its backends along, and
# the end of most other programs.
end_processes() {
	local signal=QUIT try pids

	for try in {1..60}; do
		pids=$(our_processes)
		[ -n "$pids" ] || return 0
		[ "$try" -le 50 ] || signal=KILL
		# shellcheck disable=SC2086 # a list of words
		kill "-$signal" $pids 2>/dev/null || :
		sleep 0.1
	done
}

leave() {
	trap '' HUP INT TERM
	end_processes
	rm -rf "$work"
}

# --- the private PostgreSQL --------------------------------------------------------

# Copies the machine's PostgreSQL; the headers stay where they are.
private_postgres() {
	local original=$system_pg_config root=$work/pg dir path

	for dir in bindir pkglibdir sharedir; do
		path=$("$original" "--$dir")
		[ -d "$root$path" ] || {
			as_worker mkdir -p "$root$path"
			as_worker cp -a "$path/." "$root$path"
		}
	done
	path=$("$original" --includedir)
	as_worker mkdir -p "$root${path%/*}"
	as_worker ln -s "$path" "$root$path"

	pgbin=$root$("$original" --bindir)
	pg_config=$pgbin/pg_config
	[ "$("$pg_config" --sharedir)" = "$root$("$original" --sharedir)" ] ||
		relocate_pg_config "$root"
	worker+=("PATH=$pgbin:$PATH" "PG_CONFIG=$pg_config")
}

# In older Debian packages pg_config, other than the server, tells the folders of
# the original wherever it is run.
relocate_pg_config() { # ROOT
	local dir dirs=

	for dir in bindir pkglibdir sharedir includedir; do
		dirs+="${dirs:+|}$("$pg_config" "--$dir")"
	done
	as_worker mv "$pg_config" "$pg_config.plain"
	as_worker tee "$pg_config" >/dev/null <<-EOF
		#!/bin/sh
		"$pg_config.plain" "\$@" | sed -E 's:^([A-Z-]+ = )?($dirs)(/|\$):\1$1\2\3:'
	EOF
	as_worker chmod 755 "$pg_config"
}

# make in the copy of the source tree.
make_src() {
	as_worker make -C "$src" --no-print-directory -j "${JOBS:-$(nproc)}" "$@"
}

# Starts a server that can be reached through its socket alone, and makes it the
# one that the worker's clients talk to.
start_server() {
	local data=$work/data log=$work/server.log

	as_worker mkdir -m 700 "$work/s"
	as_worker "$pgbin/initdb" -D "$data" -U postgres -A trust --no-sync \
		--encoding=UTF8 --locale=C >"$work/initdb.log" 2>&1 ||
		die "initdb failed: $(cat "$work/initdb.log")"
	as_worker tee -a "$data/postgresql.conf" >/dev/null <<-EOF
		listen_addresses = ''
		unix_socket_directories = '$work/s'
		fsync = off
		max_prepared_transactions = 5
	EOF
	as_worker "$pgbin/pg_ctl" -D "$data" -l "$log" -w start >/dev/null ||
		die "the server did not start: $(cat "$log")"
	worker+=("PGHOST=$work/s" PGPORT=5432 PGUSER=postgres PGDATABASE=postgres)
	check_server_is_private
}

# Whatever else there is in the extension's place would be tested instead.
check_server_is_private() {
	local folders

	folders=$(as_worker psql -XAt -c "SELECT setting FROM pg_catalog.pg_config
		WHERE name IN ('PKGLIBDIR', 'SHAREDIR') ORDER BY name" | xargs)
	[ "$folders" = "$("$pg_config" --pkglibdir) $("$pg_config" --sharedir)" ] ||
		die "this PostgreSQL cannot be used from another place: it uses $folders"
}

stop_server() {
	as_worker "$pgbin/pg_ctl" -D "$work/data" -m fast -w stop >/dev/null
}
