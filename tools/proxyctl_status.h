/* proxyctl_status.h - the JSON status of crossfade: looked up, judged and worded. Pure functions of the object, no I/O but to the FILE given. */
#ifndef CROSSFADE_PROXYCTL_STATUS_H
#define CROSSFADE_PROXYCTL_STATUS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* A member by its path ("mirror.queued"), or what stands in for it where the status lacks it. */
int64_t status_int(const json_t *status, const char *path, int64_t otherwise);
double status_real(const json_t *status, const char *path, double otherwise);
const char *status_text(const json_t *status, const char *path, const char *otherwise);

/* Keys that a verify found different; 0: clean. */
int64_t verify_differences(const json_t *last_verify);

/* Checks the words of a condition list ("synced,lag=0"); false: err says which is wrong. */
bool conditions_valid(const char *list, char *err, size_t errlen);
/* Whether all of them hold in this status. The list is valid. */
bool conditions_hold(const char *list, const json_t *status);

/* For people. */
void status_print(const json_t *status, FILE *out);
void verify_print(const json_t *last_verify, FILE *out);
void flip_print(const json_t *last_flip, FILE *out);
/* The gates of a dry run; returns whether all are open. */
bool gates_print(const json_t *gates, FILE *out);
bool gates_open(const json_t *gates);

/* The lines of a check, then their numbers. */
void check_print(const json_t *lines, FILE *out);
unsigned check_errors(const json_t *lines);

/* One line of progress, without line end: bar_width > 0 draws a bar of that many cells. */
void progress_line(const json_t *status, unsigned bar_width, char *line, size_t len);
void verify_progress_line(const json_t *status, unsigned bar_width, char *line, size_t len);

/* 1234567 → "1,234,567"; 12345678 → "11.8 MB"; 75 → "1 min 15 s". Into a buffer of the caller's. */
#define WORDED_MAX 48
const char *word_count(int64_t n, char out[WORDED_MAX]);
const char *word_bytes(int64_t n, char out[WORDED_MAX]);
const char *word_seconds(int64_t s, char out[WORDED_MAX]);

#endif
