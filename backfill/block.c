#include "backfill/block.h"

#include <assert.h>
#include <stdarg.h>

#include "resp/write.h"

static sds cat_text(sds s, const char *text)
{
	return resp_cat_bulk(s, slice(text, strlen(text)));
}

void block_init(struct block *b, sds out, struct slice key)
{
	*b = (struct block){ .out = out, .key = key };
}

void block_release(struct block *b)
{
	sdsfree(b->args);
	b->args = NULL;
}

static void added(struct block *b, size_t from, unsigned nelements)
{
	assert(nelements <= BLOCK_ELEMENTS && (nelements == 1 || sdslen(b->out) - from - b->key.n <= BLOCK_COMMAND_MAX));
	b->ncommands++;
}

void block_command(struct block *b, const char *verb, int argc, const struct slice *argv)
{
	size_t from = sdslen(b->out);

	assert(!b->verb);
	b->out = resp_cat_len(b->out, '*', argc + 1);
	b->out = cat_text(b->out, verb);
	for (int i = 0; i < argc; i++)
		b->out = resp_cat_bulk(b->out, argv[i]);
	added(b, from, 1);
}

void block_words(struct block *b, const char *verb, ...)
{
	struct slice argv[16] = { b->key };
	int argc = 1;
	const char *word;
	va_list ap;

	va_start(ap, verb);
	while ((word = va_arg(ap, const char *))) {
		assert(argc < 16);
		argv[argc++] = slice(word, strlen(word));
	}
	va_end(ap);
	block_command(b, verb, argc, argv);
}

void block_open(struct block *b, const char *verb, const char *option)
{
	assert(!b->verb && verb);
	b->verb = verb;
	b->option = option;
	b->nelements = b->nargs = 0;
	if (!b->args)
		b->args = sdsempty();
	sdsclear(b->args);
}

static void block_cut(struct block *b)
{
	if (b->nelements == 0)
		return;
	size_t from = sdslen(b->out);
	b->out = resp_cat_len(b->out, '*', 2 + (b->option != NULL) + (int64_t)b->nargs);
	b->out = cat_text(b->out, b->verb);
	b->out = resp_cat_bulk(b->out, b->key);
	if (b->option)
		b->out = cat_text(b->out, b->option);
	b->out = sdscatlen(b->out, b->args, sdslen(b->args));
	added(b, from, b->nelements);
	b->nelements = b->nargs = 0;
	sdsclear(b->args);
}

void block_element(struct block *b, int argc, const struct slice *argv)
{
	size_t bytes = 0;

	assert(b->verb);
	for (int i = 0; i < argc; i++)
		bytes += argv[i].n + 16;
	if (b->nelements == BLOCK_ELEMENTS || sdslen(b->args) + bytes > BLOCK_BYTES)
		block_cut(b);
	for (int i = 0; i < argc; i++)
		b->args = resp_cat_bulk(b->args, argv[i]);
	b->nelements++;
	b->nargs += (unsigned)argc;
}

void block_close(struct block *b)
{
	block_cut(b);
	b->verb = NULL;
}
