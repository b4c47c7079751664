/* admin_internal.h - shared by admin.c (connections) and admin_commands.c (what they say). */
#ifndef CROSSFADE_ADMIN_INTERNAL_H
#define CROSSFADE_ADMIN_INTERNAL_H

#include <hiredis/sds.h>

#include "proxy/admin.h"
#include "proxy/control.h"
#include "resp/parse.h"

struct admin_conn;

/* An order under way; freed by its answer. conn NULL: the connection went away meanwhile. */
struct admin_wait {
	struct admin_conn *conn;
};

sds *admin_out(struct admin_conn *c);
struct control *admin_control(struct admin_conn *c);
void admin_reply(struct admin_conn *c, enum answer_code code, const char *text);
void admin_close_after(struct admin_conn *c);
/* Nothing more of this connection runs until the answer was given (which may be at once). */
struct answer admin_wait(struct admin_conn *c);

/* admin_commands.c */
void admin_command(struct admin_conn *c, const struct resp_request *r, const char *buf);

#endif
