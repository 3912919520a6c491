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

# What programs say is read, so none may say it in another language.
export LC_ALL=C

machine=            # the machine's root folder; the tests of this file have others
system_pg_config=   # the machine's PostgreSQL
work=               # the private folder, removed at the end
src=                # in it, the copy of the source tree
pgbin=              # and the private PostgreSQL's programs
pg_config=          # one of them
worker=()           # command prefix that turns into the user who works here
trouble=            # why the private folder could not be made

say() {
	echo "== $*"
}

die() {
	echo "${0##*/}: $*" >&2
	exit 1
}

# --- the machine ---------------------------------------------------------------

oldest_version=15 # of PostgreSQL that we can work with

version_of() { # PG_CONFIG
	"$1" --version | sed -n 's/^PostgreSQL \([0-9]*\).*/\1/p'
}

# Finds the caller's PG_CONFIG, or else that of the newest installed server.
find_postgres() {
	local server

	system_pg_config=${PG_CONFIG:-}
	if [ -n "$system_pg_config" ]; then
		system_pg_config=$(command -v "$system_pg_config") || die "no such PG_CONFIG: $PG_CONFIG"
		system_pg_config=$(realpath -s "$system_pg_config")
	else
		server=$(printf '%s\n' "$machine"/usr/lib/postgresql/*/bin/postgres | sort -V | tail -n 1)
		[ -x "$server" ] || return 0
		system_pg_config=${server%/*}/pg_config
		# One that is too old stays aside, and the distribution's is installed.
		[ "$(version_of "$system_pg_config")" -ge $oldest_version ] || system_pg_config=
	fi
}

# The PostgreSQL to work with: the one that is found, or else the distribution's,
# as its package "postgresql" says. Nothing where apt has no package lists yet.
postgres_version() {
	if [ -n "$system_pg_config" ]; then
		version_of "$system_pg_config"
	else
		{ apt-cache depends postgresql 2>/dev/null || :; } |
			sed -n '0,/^ *Depends: postgresql-[0-9]*$/s/^ *Depends: postgresql-//p'
	fi
}

check_version() {
	local version

	version=$(postgres_version)
	[ "${version:-$oldest_version}" -ge $oldest_version ] ||
		die "PostgreSQL $version is too old: install $oldest_version or later" \
			"(apt.postgresql.org has it), or name its pg_config in PG_CONFIG"
}

# PostgreSQL's make files prove nothing: Debian has them in the client's package,
# and the headers in one that few servers have.
missing_postgres_packages() {
	local version

	version=$(postgres_version)
	if [ -z "$version" ]; then
		echo postgresql postgresql-server-dev-all
		return
	fi
	[ -n "$system_pg_config" ] && [ -x "$("$system_pg_config" --bindir)/postgres" ] ||
		echo "postgresql-$version"
	[ -n "$system_pg_config" ] && [ -e "$("$system_pg_config" --includedir-server)/postgres.h" ] ||
		echo "postgresql-server-dev-$version"
}

missing_build_packages() {
	[ -e "$machine/usr/include/stdio.h" ] || echo libc6-dev
	command -v gcc >/dev/null || echo gcc
	command -v make >/dev/null || echo make
	command -v pkg-config >/dev/null || echo pkg-config
	pkg-config --exists libcurl 2>/dev/null || curl-config --version >/dev/null 2>&1 ||
		echo libcurl4-openssl-dev
}

# Debian has libcurl's headers with one TLS library at a time, and to remove
# somebody's package is not our business.
check_libcurl() {
	local backends

	backends=$(curl-config --ssl-backends 2>/dev/null) || return 0
	[[ $backends == *OpenSSL* ]] ||
		die "libcurl is here for ${backends:-no TLS}, and OpenSSL is needed:" \
			"install libcurl4-openssl-dev, which takes the other's place"
}

# What the stand-in API runs on.
missing_standin_packages() {
	python3 -c 'import asyncio, ssl' 2>/dev/null || echo python3
	command -v openssl >/dev/null || echo openssl
}

# Not every version of PostgreSQL has a package of pg_cron, and its test does
# without.
missing_pg_cron() {
	local package

	package=postgresql-$(postgres_version)-cron
	[ -z "$system_pg_config" ] || [ ! -e "$("$system_pg_config" --pkglibdir)/pg_cron.so" ] ||
		return 0
	! apt-cache show "$package" >/dev/null 2>&1 || echo "$package"
}

missing_test_packages() {
	[ -e "$machine/etc/ssl/certs/ca-certificates.crt" ] || echo ca-certificates
	perl -MIPC::Run -e 1 2>/dev/null || echo libipc-run-perl
	python3 -c 'import h2' 2>/dev/null || echo python3-h2
	command -v nghttpx >/dev/null || echo nghttp2-proxy
	command -v shellcheck >/dev/null || echo shellcheck
	missing_pg_cron
}

missing_valgrind_packages() {
	command -v valgrind >/dev/null || echo valgrind
}

# Prints the Debian packages without which the given kinds of work can't be done.
missing_packages() {
	local kind

	for kind; do
		"missing_${kind}_packages"
	done | xargs
}

# Installs what is missing. Only today's package lists tell all the names.
install_missing() { # KIND...
	local missing as_root=()

	missing=$(missing_packages "$@")
	command -v apt-get >/dev/null ||
		die "install these Debian packages, or their like, first: $missing"
	if [ "$EUID" != 0 ]; then
		as_root=(sudo)
		command -v sudo >/dev/null ||
			die "there is no sudo; as root, install these packages first: $missing"
		say "packages are missing; sudo may ask for your password"
		sudo true || die "without sudo, have these packages installed first: $missing"
	fi
	"${as_root[@]}" "$scripts/install-packages" --update
	check_version
	missing=$(missing_packages "$@")
	# shellcheck disable=SC2086 # a list of words
	"${as_root[@]}" "$scripts/install-packages" $missing ||
		die "apt-get could not install, as said above: $missing"
}

# Makes the machine fit for the given kinds of work: those of the functions above.
need() { # KIND...
	local missing

	find_postgres
	check_version
	check_libcurl
	[ -n "$(missing_packages "$@")" ] || return 0
	install_missing "$@"

	find_postgres
	missing=$(missing_packages "$@")
	[ -z "$missing" ] || die "installed, but not found: $missing"
}

# --- the private folder ----------------------------------------------------------

# Makes the private folder, and sees to it that nothing is left at the end,
# however that comes about.
make_work() {
	local parent wanted=${TMPDIR:-/tmp} troubles=()

	trap leave EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
	for parent in "$wanted" /tmp /var/tmp; do
		[ -z "$trouble" ] || [ "$parent" != "$wanted" ] || continue
		! make_work_in "$parent" || break
		troubles+=("$parent $trouble")
		remove_work
	done
	[ -n "$work" ] ||
		die "set TMPDIR to another folder: $(printf '%s; ' "${troubles[@]}")"
	[ "$parent" = "$wanted" ] || say "working in $parent: ${troubles[0]}"
	copy_tree
}

# Makes it below a folder, if a private PostgreSQL can be built and run there;
# else "trouble" says why not.
make_work_in() { # PARENT
	local parent

	parent=$(cd "$1" 2>/dev/null && pwd -P) || {
		trouble="cannot be entered"
		return 1
	}
	# make knows no quotes, and the path of a server's socket may have 107 bytes.
	if [[ $parent == *[!A-Za-z0-9/._+@-]* ]] || [ ${#parent} -gt 55 ]; then
		trouble="has a name that make or sockets cannot deal with"
		return 1
	fi
	work=$(mktemp -d "$parent/sendkit.XXXXXX" 2>/dev/null) || {
		trouble="cannot be written to"
		return 1
	}
	# Out of our own folder, see our_processes, and where any user may be.
	cd /
	choose_worker
	as_worker mkdir "$work/tmp" 2>/dev/null || {
		trouble="cannot be used by the user $(id -un nobody)"
		return 1
	}
	printf '#!/bin/sh\n' | as_worker tee "$work/tmp/run" >/dev/null
	as_worker chmod 755 "$work/tmp/run"
	as_worker "$work/tmp/run" 2>/dev/null || {
		trouble="is mounted so that no program can be run from there (noexec)"
		return 1
	}
}

# None of the caller's environment: neither PG* and proxy variables nor locale.
choose_worker() {
	local user

	worker=()
	if [ "$EUID" = 0 ]; then
		chown nobody "$work"
		worker=(setpriv "--reuid=nobody" "--regid=$(id -g nobody)" --clear-groups)
	fi
	user=$("${worker[@]}" id -un)
	worker+=(env -C "$work" -i "HOME=$work" "TMPDIR=$work/tmp" "USER=$user"
		"PATH=$PATH" LC_ALL=C.UTF-8)
}

# Runs a command as the user who works here.
as_worker() {
	"${worker[@]}" "$@"
}

# As a tar that is read by us and written by that user, who may see nothing of
# the original. What a build in the original has left is cleaned away later; what
# tests there have left is not copied, since it may be changing right now.
copy_tree() {
	src=$work/src
	as_worker mkdir "$src"
	tar -C "$tree" --exclude-vcs --exclude=./tmp_check --exclude=./tmp_check_iso -cf - . |
		as_worker tar -C "$src" --no-same-owner -xf -
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

remove_work() {
	[ -z "$work" ] || rm -rf "$work"
	work=
}

leave() {
	trap '' HUP INT TERM
	[ -z "$work" ] || end_processes
	remove_work
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
