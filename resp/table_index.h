/* table_index.h - how a name finds its row: between the generated resp/table_data.c and resp/table.c, for nobody else.
 *
 * The index holds row + 1 (0: free), open addressing. Two words and the length decide for names up to 16 bytes, so a
 * look-up reads the name once and touches no string:
 *
 *   8 bytes and more   first = the first 8, last = the last 8 (they overlap)
 *   4 to 7             first = the first 4 and the last 4, last = 0
 *   1 to 3             first = the first, the middle and the last byte, last = 0 */
#ifndef CROSSFADE_TABLE_INDEX_H
#define CROSSFADE_TABLE_INDEX_H

#include <stdint.h>

#define COMMAND_INDEX_BITS 10
#define COMMAND_INDEX_SIZE (1 << COMMAND_INDEX_BITS)
#define COMMAND_TOP 0xffff /* parent of what is no subcommand */

struct command_name {
	uint64_t first, last;
	uint16_t length, parent; /* parent: id of the container */
};

extern const struct command_name command_names[]; /* by id, as command_table */
extern const uint16_t command_index[COMMAND_INDEX_SIZE];
extern const uint64_t command_index_factor;

#endif
