/* backfill_thread.h - the thread on which backfill/ runs: its loop, its mailbox, and the host functions that backfill/ asks for.
 *
 * Calls here are made by the control thread; they post and return. What owners post (backfill_thread_repair and so on) is in fleet.h.
 * Life: new → (fleet_new) → begin → … → end (joins; before the fleet is freed) → free (after it). */
#ifndef CROSSFADE_BACKFILL_THREAD_H
#define CROSSFADE_BACKFILL_THREAD_H

#include "proxy/fleet.h"
#include "proxy/phases.h"

struct backfill_thread;

struct backfill_thread *backfill_thread_new(const struct config *config, struct mailboxes *mail, struct control *control, unsigned workers);
void backfill_thread_begin(struct backfill_thread *t, struct fleet *fleet);
void backfill_thread_end(struct backfill_thread *t);
void backfill_thread_free(struct backfill_thread *t);

/* `migration` counts for BACKFILL_START and BACKFILL_ADOPT. */
void backfill_thread_order(struct backfill_thread *t, enum backfill_order what, const struct order_args *args, const char *migration);
/* Of connections that are made from now on; borrowed, the config keeps it. */
void backfill_thread_password(struct backfill_thread *t, enum side side, const char *password);
void backfill_thread_topology(struct backfill_thread *t, struct topology *topology); /* takes the reference */

const struct bf_stats *backfill_thread_stats(const struct backfill_thread *t);
/* The keys that cannot be carried, as they were told last; NULL: none was ever. Valid until the control thread reads its mail. */
const struct uncarried_report *backfill_thread_uncarried(const struct backfill_thread *t);
/* Orders were posted that the thread has not carried out yet: its stats do not show them. */
bool backfill_thread_behind(const struct backfill_thread *t);

/* Something happened, says the thread; implemented by control.c, runs on the control thread. */
void control_backfill_event(void *control);

#endif
