/* mailbox.h - the only thing that crosses threads: a closure is posted to another thread's loop and run there.
 *
 *   sender thread f                         receiver thread t
 *   mailbox_post(t, f, fn, arg)
 *     ring[f→t][tail] = {fn, arg}           (tail not yet published)
 *   … end of f's loop turn …
 *   mailbox_flush_all(f)
 *     publish tail (release)                 head..tail (acquire): run fn(arg) in order
 *     wake t once if it may sleep   ──►      eventfd read, rings of all senders drained
 *
 * One bounded ring per ordered pair of threads; what does not fit waits in the sender's own overflow list and is moved at its
 * next flush, so posting never fails and never blocks; order per pair is kept. A sender that can push back asks mailbox_backlog().
 * Messages posted before a thread's end are run or, after mailbox_close, dropped.
 * Thread: post, flush and backlog by the sender named `from`; attach and the callbacks by the receiver. */
#ifndef CROSSFADE_MAILBOX_H
#define CROSSFADE_MAILBOX_H

#include <ev.h>
#include <stddef.h>

typedef void mail_fn(void *arg);

struct mailboxes;

struct mailboxes *mailboxes_new(unsigned threads);
void mailboxes_free(struct mailboxes *m); /* after every thread has ended */
/* Receiver `self` runs its messages on this loop from now on, and flushes what it posted before each sleep of the loop. */
void mailbox_attach(struct mailboxes *m, unsigned self, struct ev_loop *loop);
void mailbox_detach(struct mailboxes *m, unsigned self);
void mailbox_post(struct mailboxes *m, unsigned to, unsigned from, mail_fn *fn, void *arg);
/* about: a line that fn will look at besides arg; the receiver fetches it while it runs those before (lines.h). */
void mailbox_post_about(struct mailboxes *m, unsigned to, unsigned from, mail_fn *fn, void *arg, const void *about);
void mailbox_flush_all(struct mailboxes *m, unsigned from);
size_t mailbox_backlog(const struct mailboxes *m, unsigned to, unsigned from);

#endif
