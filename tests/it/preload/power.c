/*
 * A disk that loses what was not synced, slipped under a real process.
 *
 *     cc -O2 -shared -fPIC -o power.so power.c -ldl -lpthread ;  LD_PRELOAD=power.so POWER_DIR=… POWER_STATE=… server
 *
 * kill -9 keeps the page cache, so it proves nothing about syncs. Under POWER_DIR this library keeps beside every file
 * what would be on disk now, in POWER_STATE (on the same file system):
 *
 *     file/<inode>   a second name of the file, so that its number is not used again and its bytes outlive its removal
 *     data/<inode>   what was in the file when it was last synced: nothing before the first sync
 *     dir/<inode>    the names in a directory when it was last synced: "f|d <inode> <name>" a line
 *
 * A write notes its range in memory, a sync copies the ranges noted since the last one from the file to data/. So what
 * a kill interrupts is what a power cut may leave, and a write that this library did not see is lost at the cut, never
 * kept by mistake. The cut itself is made after the kill (tests/it/src/power): the directory becomes what data/ and
 * dir/ say. Nothing is really synced: the machine keeps its power.
 *
 * Commands in the file POWER_CONTROL, one a line, the first that fits counts; looked at for every sync and write:
 *
 *     <what> <kind> <pattern> [<milliseconds>]
 *
 * kind: file (fsync and fdatasync of a file), dir (fsync of a directory), write. pattern: fnmatch(3), on the path below
 * POWER_DIR. what: lie (says it is done: the call is as if it were taken out of the program), fail (EIO; what was not
 * synced is gone for good, as in Linux), full (ENOSPC, for write), delay, hang (until the line is gone). Each command
 * that struck leaves a line in POWER_STATE/struck.
 *
 * POWER_VERIFY=1: after each sync of a file the whole file is compared with its copy; what differs was written past
 * this library and is told in POWER_STATE/escaped.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 65536
#define COPY_BYTES (1 << 18)

struct range {
	off_t from, to;
};

/* A file under POWER_DIR, by its inode. */
struct tracked {
	ino_t ino;
	int all;	      /* whatever is in it may not be synced: written before this process, or cut to nothing */
	pthread_mutex_t sync; /* one sync at a time: none returns before the one that took its ranges */
	struct range *dirty;
	size_t count, room;
};

static struct tracked table[SLOTS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char dir[PATH_MAX], state[PATH_MAX], control[PATH_MAX];
static size_t dir_len;
static dev_t device;
static int verify;

static void die(const char *what)
{
	dprintf(2, "power.so: %s: %s\n", what, strerror(errno));
	_exit(97);
}

__attribute__((constructor)) static void begin(void)
{
	const char *d = getenv("POWER_DIR"), *s = getenv("POWER_STATE"), *c = getenv("POWER_CONTROL");
	struct stat st;
	char path[PATH_MAX + 16];
	if (!d || !s)
		return;
	if (!realpath(d, dir) || !realpath(s, state) || stat(dir, &st))
		die("POWER_DIR, POWER_STATE");
	device = st.st_dev;
	snprintf(control, sizeof control, "%s", c ? c : "");
	verify = getenv("POWER_VERIFY") != NULL;
	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof path, "%s/%s", state, (const char *[]){"file", "data", "dir"}[i]);
		if (mkdir(path, 0700) && errno != EEXIST)
			die(path);
	}
	dir_len = strlen(dir);
}

#define REAL(name) \
	static __typeof__(name) *real; \
	if (!real && !(real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name))) \
		die(#name)

/* The path of an open file below POWER_DIR, without the leading slash, "." for itself; NULL for any other. */
static const char *below(int fd, char *path)
{
	char link[40];
	ssize_t length;
	if (!dir_len)
		return NULL;
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	length = readlink(link, path, PATH_MAX - 1);
	if (length < 0)
		return NULL;
	path[length] = 0;
	if (strncmp(path, dir, dir_len) || (path[dir_len] != '/' && path[dir_len]))
		return NULL;
	return path[dir_len] ? path + dir_len + 1 : ".";
}

static void tell(const char *file, const char *text)
{
	char path[PATH_MAX + 16];
	int fd;
	snprintf(path, sizeof path, "%s/%s", state, file);
	fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd < 0 || dprintf(fd, "%s\n", text) < 0)
		die(path);
	syscall(SYS_close, fd);
}

enum verdict { GO, LIE, FAIL, FULL };

/* What is to happen to an operation on this path. */
static enum verdict ask(const char *kind, const char *path)
{
	char text[4096], *line, *rest;
	int told = 0;
	for (;;) {
		ssize_t length;
		int fd, again = 0;
		if (!*control)
			return GO;
		fd = syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC, 0);
		if (fd < 0)
			return GO;
		length = read(fd, text, sizeof text - 1);
		syscall(SYS_close, fd);
		if (length <= 0)
			return GO;
		text[length] = 0;
		for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
			char what[16], on[16], pattern[1024], struck[PATH_MAX + 64];
			int ms = 0;
			if (sscanf(line, "%15s %15s %1023s %d", what, on, pattern, &ms) < 3)
				continue;
			if (strcmp(on, kind) || fnmatch(pattern, path, 0))
				continue;
			if (!told++) {
				snprintf(struck, sizeof struck, "%s %s %s", what, kind, path);
				tell("struck", struck);
			}
			if (!strcmp(what, "delay") || !strcmp(what, "hang")) {
				struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
				if (*what == 'h')
					t = (struct timespec){0, 20000000};
				nanosleep(&t, NULL);
				again = *what == 'h';
				if (again)
					break;
				return GO;
			}
			return !strcmp(what, "lie") ? LIE : !strcmp(what, "full") ? FULL : FAIL;
		}
		if (!again)
			return GO;
	}
}

/* The place of a file in the table; with `make`, a new one where it has none. Call with the lock held. */
static struct tracked *find(ino_t ino, int make)
{
	size_t at = (ino * 0x9e3779b97f4a7c15u) >> 48;
	for (size_t n = 0; n < SLOTS; n++, at = (at + 1) % SLOTS) {
		if (table[at].ino == ino)
			return &table[at];
		if (!table[at].ino) {
			if (!make)
				return NULL;
			table[at].ino = ino;
			return &table[at];
		}
	}
	errno = ENOSPC;
	die("too many files");
	return NULL;
}

/* Gives a file its second name; whether it had it. */
static int pin(int at, const char *name, ino_t ino)
{
	char path[PATH_MAX + 40];
	snprintf(path, sizeof path, "%s/file/%lu", state, (unsigned long)ino);
	if (!linkat(at, name, AT_FDCWD, path, 0))
		return 0;
	if (errno == EEXIST)
		return 1;
	return errno == ENOENT ? 0 : (die(path), 0);
}

/* A file was opened: from now on its writes are noted. */
static void opened(int fd, int flags)
{
	char path[PATH_MAX];
	struct stat st;
	int saved = errno;
	if (below(fd, path) && !fstat(fd, &st) && S_ISREG(st.st_mode)) {
		pthread_mutex_lock(&lock);
		struct tracked *t = find(st.st_ino, 0);
		if (!t) {
			int known = pin(AT_FDCWD, path, st.st_ino);
			t = find(st.st_ino, 1);
			/* What a process before this one left unsynced is synced with the rest. */
			t->all = known || st.st_size > 0;
		}
		t->all |= (flags & O_TRUNC) != 0;
		pthread_mutex_unlock(&lock);
	}
	errno = saved;
}

/* Whether writes to it are noted, and its inode. */
static int is_tracked(int fd, struct stat *st)
{
	int found;
	if (!dir_len || syscall(SYS_fstat, fd, st) || !S_ISREG(st->st_mode) || st->st_dev != device)
		return 0;
	pthread_mutex_lock(&lock);
	found = find(st->st_ino, 0) != NULL;
	pthread_mutex_unlock(&lock);
	return found;
}

static void note(ino_t ino, off_t from, off_t to)
{
	struct tracked *t;
	if (from >= to)
		return;
	pthread_mutex_lock(&lock);
	t = find(ino, 1);
	if (t->count && t->dirty[t->count - 1].to == from) {
		t->dirty[t->count - 1].to = to;
	} else {
		if (t->count == t->room) {
			t->room = t->room ? 2 * t->room : 16;
			t->dirty = realloc(t->dirty, t->room * sizeof *t->dirty);
			if (!t->dirty)
				die("memory");
		}
		t->dirty[t->count++] = (struct range){from, to};
	}
	pthread_mutex_unlock(&lock);
}

static void copy(int from, int to, off_t at, off_t end)
{
	char *buffer = malloc(COPY_BYTES);
	if (!buffer)
		die("memory");
	while (at < end) {
		size_t want = end - at < COPY_BYTES ? (size_t)(end - at) : COPY_BYTES;
		ssize_t got = syscall(SYS_pread64, from, buffer, want, at);
		if (got < 0)
			die("read back");
		if (!got)
			break;
		if (syscall(SYS_pwrite64, to, buffer, got, at) != got)
			die("copy");
		at += got;
	}
	free(buffer);
}

/* Everything, holes too. The copy is never cut to nothing first: what was synced before outlives a kill in between. */
static void copy_all(int from, int to, off_t size)
{
	off_t at = 0;
	if (syscall(SYS_ftruncate, to, size))
		die("cut a copy");
	while (at < size) {
		off_t data = syscall(SYS_lseek, from, at, SEEK_DATA), hole;
		off_t empty = (data < 0 ? size : data) - at;
		if (empty > 0 && syscall(SYS_fallocate, to, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, empty))
			die("empty a copy");
		if (data < 0)
			return;
		hole = syscall(SYS_lseek, from, data, SEEK_HOLE);
		copy(from, to, data, hole < 0 ? size : hole);
		at = hole < 0 ? size : hole;
	}
}

static void compare(int live, int kept, const char *path, ino_t ino)
{
	char *a = malloc(COPY_BYTES), *b = malloc(COPY_BYTES);
	char text[PATH_MAX + 64];
	if (!a || !b)
		die("memory");
	for (off_t at = 0;;) {
		ssize_t n = syscall(SYS_pread64, live, a, COPY_BYTES, at), m = syscall(SYS_pread64, kept, b, COPY_BYTES, at);
		struct tracked *t;
		int busy;
		if (n <= 0 && m <= 0)
			break;
		pthread_mutex_lock(&lock);
		t = find(ino, 0);
		busy = t && t->count;
		pthread_mutex_unlock(&lock);
		if (busy) /* somebody writes on meanwhile */
			break;
		if (n != m || memcmp(a, b, n)) {
			snprintf(text, sizeof text, "%s differs near %ld", path, (long)at);
			tell("escaped", text);
			break;
		}
		at += n;
	}
	free(a);
	free(b);
}

/* What was written is durable. */
static void keep(int fd, const struct stat *st, const char *path)
{
	char name[PATH_MAX + 40], live_name[PATH_MAX + 40];
	struct range *dirty;
	size_t count;
	struct tracked *t;
	struct stat now;
	int all, to, live;
	pthread_mutex_lock(&lock);
	t = find(st->st_ino, 1);
	pthread_mutex_unlock(&lock);
	pthread_mutex_lock(&t->sync);
	pthread_mutex_lock(&lock);
	all = t->all;
	dirty = t->dirty;
	count = t->count;
	t->all = 0;
	t->dirty = NULL;
	t->count = t->room = 0;
	pthread_mutex_unlock(&lock);
	snprintf(name, sizeof name, "%s/data/%lu", state, (unsigned long)st->st_ino);
	/* The descriptor may be open for writing only. */
	snprintf(live_name, sizeof live_name, "%s/file/%lu", state, (unsigned long)st->st_ino);
	to = syscall(SYS_openat, AT_FDCWD, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	live = syscall(SYS_openat, AT_FDCWD, live_name, O_RDONLY | O_CLOEXEC, 0);
	if (to < 0 || live < 0 || syscall(SYS_fstat, fd, &now))
		die(name);
	if (all)
		copy_all(live, to, now.st_size);
	for (size_t n = 0; n < count; n++)
		copy(live, to, dirty[n].from, dirty[n].to);
	if (syscall(SYS_ftruncate, to, now.st_size))
		die(name);
	free(dirty);
	if (verify)
		compare(live, to, path, st->st_ino);
	syscall(SYS_close, to);
	syscall(SYS_close, live);
	pthread_mutex_unlock(&t->sync);
}

/* A directory's names are durable. */
static void keep_names(const struct stat *st, const char *path)
{
	char name[PATH_MAX + 40], next[PATH_MAX + 48];
	struct dirent *entry;
	FILE *out;
	DIR *in;
	/* One at a time: an older list must not come after a newer one. */
	static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
	pthread_mutex_lock(&one);
	snprintf(name, sizeof name, "%s/dir/%lu", state, (unsigned long)st->st_ino);
	snprintf(next, sizeof next, "%s.%d", name, gettid());
	in = opendir(path);
	out = fopen(next, "we");
	if (!in || !out)
		die(next);
	while ((entry = readdir(in))) {
		struct stat of;
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		/* Gone meanwhile. */
		if (fstatat(dirfd(in), entry->d_name, &of, AT_SYMLINK_NOFOLLOW))
			continue;
		if (S_ISREG(of.st_mode))
			pin(dirfd(in), entry->d_name, of.st_ino);
		fprintf(out, "%c %lu %s\n", S_ISDIR(of.st_mode) ? 'd' : 'f', (unsigned long)of.st_ino, entry->d_name);
	}
	closedir(in);
	if (fclose(out) || rename(next, name))
		die(name);
	pthread_mutex_unlock(&one);
}

/* fsync and fdatasync. */
static int synced(int fd)
{
	char path[PATH_MAX];
	const char *name = below(fd, path);
	struct stat st;
	int is_dir;
	if (!name || syscall(SYS_fstat, fd, &st))
		return -2;
	is_dir = S_ISDIR(st.st_mode);
	if (!is_dir && !S_ISREG(st.st_mode))
		return -2;
	switch (ask(is_dir ? "dir" : "file", name)) {
	case LIE:
		return 0;
	case FAIL:
	case FULL:
		if (!is_dir) {
			struct tracked *t;
			pthread_mutex_lock(&lock);
			t = find(st.st_ino, 1);
			t->count = 0;
			t->all = 0;
			pthread_mutex_unlock(&lock);
		}
		errno = EIO;
		return -1;
	case GO:
		break;
	}
	if (is_dir)
		keep_names(&st, path);
	else
		keep(fd, &st, name);
	return 0;
}

int fsync(int fd)
{
	REAL(fsync);
	int done = synced(fd);
	return done == -2 ? real(fd) : done;
}

int fdatasync(int fd)
{
	REAL(fdatasync);
	int done = synced(fd);
	return done == -2 ? real(fd) : done;
}

/* A hint: says nothing about durability. */
int sync_file_range(int fd, off64_t offset, off64_t count, unsigned flags)
{
	(void)fd, (void)offset, (void)count, (void)flags;
	return 0;
}

int syncfs(int fd)
{
	(void)fd;
	errno = ENOSYS;
	die("syncfs is not known here");
	return -1;
}

static mode_t mode_of(int flags, va_list rest)
{
	return flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;
}

#define OPEN(name) \
	int name(const char *path, int flags, ...) \
	{ \
		REAL(name); \
		va_list rest; \
		int fd; \
		va_start(rest, flags); \
		fd = real(path, flags, mode_of(flags, rest)); \
		va_end(rest); \
		if (fd >= 0 && dir_len) \
			opened(fd, flags); \
		return fd; \
	}
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
	int name(int at, const char *path, int flags, ...) \
	{ \
		REAL(name); \
		va_list rest; \
		int fd; \
		va_start(rest, flags); \
		fd = real(at, path, flags, mode_of(flags, rest)); \
		va_end(rest); \
		if (fd >= 0 && dir_len) \
			opened(fd, flags); \
		return fd; \
	}
OPENAT(openat)
OPENAT(openat64)

int creat(const char *path, mode_t mode)
{
	return open(path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

int creat64(const char *path, mode_t mode)
{
	return open64(path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

/* Whether a write is to fail. */
static int refused(int fd)
{
	char path[PATH_MAX];
	const char *name = *control ? below(fd, path) : NULL;
	enum verdict verdict = name ? ask("write", name) : GO;
	if (verdict == GO)
		return 0;
	errno = verdict == FULL ? ENOSPC : EIO;
	return 1;
}

#define AT_OFFSET(name, call_type, length_type) \
	ssize_t name(int fd, call_type what, length_type length, off_t offset) \
	{ \
		REAL(name); \
		struct stat st; \
		int noted = is_tracked(fd, &st); \
		ssize_t done; \
		if (noted && refused(fd)) \
			return -1; \
		done = real(fd, what, length, offset); \
		if (noted && done > 0) \
			note(st.st_ino, offset, offset + done); \
		return done; \
	}
AT_OFFSET(pwrite, const void *, size_t)
AT_OFFSET(pwrite64, const void *, size_t)
AT_OFFSET(pwritev, const struct iovec *, int)
AT_OFFSET(pwritev64, const struct iovec *, int)

/* At the file's own position, which is read back after the write: appends, too, are noted where they went. */
#define AT_POSITION(name, call_type, length_type) \
	ssize_t name(int fd, call_type what, length_type length) \
	{ \
		REAL(name); \
		struct stat st; \
		int noted = is_tracked(fd, &st); \
		ssize_t done; \
		if (noted && refused(fd)) \
			return -1; \
		done = real(fd, what, length); \
		if (noted && done > 0) { \
			off_t end = syscall(SYS_lseek, fd, 0, SEEK_CUR); \
			note(st.st_ino, end - done, end); \
		} \
		return done; \
	}
AT_POSITION(write, const void *, size_t)
AT_POSITION(writev, const struct iovec *, int)

/* What lies beyond the cut reads as zeros when the file grows again. */
#define TRUNCATE(name) \
	int name(int fd, off_t length) \
	{ \
		REAL(name); \
		struct stat st; \
		int noted = is_tracked(fd, &st), done = real(fd, length); \
		if (noted && !done) \
			note(st.st_ino, length, st.st_size); \
		return done; \
	}
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

/* Longer files are seen at the sync; holes and zeros in what is there are noted. */
#define ALLOCATE(name) \
	int name(int fd, int mode, off_t offset, off_t length) \
	{ \
		REAL(name); \
		struct stat st; \
		int noted = is_tracked(fd, &st), done = real(fd, mode, offset, length); \
		if (noted && !done && mode & ~FALLOC_FL_KEEP_SIZE) \
			note(st.st_ino, offset, offset + length < st.st_size ? offset + length : st.st_size); \
		return done; \
	}
ALLOCATE(fallocate)
ALLOCATE(fallocate64)

#define MAP(name) \
	void *name(void *at, size_t length, int protection, int flags, int fd, off_t offset) \
	{ \
		REAL(name); \
		struct stat st; \
		if (fd >= 0 && protection & PROT_WRITE && flags & MAP_SHARED && is_tracked(fd, &st)) { \
			errno = ENOTSUP; \
			die("a file that is written through memory"); \
		} \
		return real(at, length, protection, flags, fd, offset); \
	}
MAP(mmap)
MAP(mmap64)

ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t length, unsigned flags)
{
	struct stat st;
	if (is_tracked(out, &st)) {
		/* Callers fall back to reading and writing. */
		errno = ENOSYS;
		return -1;
	}
	return syscall(SYS_copy_file_range, in, in_at, out, out_at, length, flags);
}
