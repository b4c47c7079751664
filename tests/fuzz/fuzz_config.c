/* fuzz_config.c - a configuration file: it is taken, or refused with a message; each option that was taken can be shown. Names of files are not followed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "proxy/config.h"
#include "proxy/log.h"

#define CHECK(cond) do { if (!(cond)) abort(); } while (0)

static void show_all(const struct config *c)
{
	const char *name;

	for (unsigned i = 0; (name = config_option_name(i)); i++) {
		char *text = config_get(c, name);
		CHECK(text);
		free(text);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct config c; /* large: new memory for each would be most of a run */
	char path[64], err[1024] = "";
	int fd;

	if (memmem(data, size, "file", 4) || memmem(data, size, "FILE", 4) || memmem(data, size, "-dir", 4))
		return 0;
	memset(&c, 0, sizeof c);
	log_set_level(LOG_WARNING);
	fd = memfd_create("config", MFD_CLOEXEC);
	CHECK(fd >= 0 && write(fd, data, size) == (ssize_t)size);
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	if (config_load(&c, path, err, sizeof err)) {
		show_all(&c);
		config_release(&c);
	} else {
		CHECK(*err);
	}
	close(fd);
	return 0;
}
