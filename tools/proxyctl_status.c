/* proxyctl_status.c - see proxyctl_status.h. */
#include "tools/proxyctl_status.h"

#include <inttypes.h>
#include <string.h>

#define ALL_SLOTS 16384
#define UNCARRIED_SHOWN 5

/* ---- looking up */

static const json_t *find(const json_t *object, const char *path)
{
	char name[64];

	while (object && *path) {
		size_t len = strcspn(path, ".");

		if (len >= sizeof name)
			return NULL;
		memcpy(name, path, len);
		name[len] = 0;
		object = json_object_get(object, name);
		path += len + (path[len] == '.');
	}
	return object;
}

int64_t status_int(const json_t *status, const char *path, int64_t otherwise)
{
	const json_t *v = find(status, path);

	return json_is_number(v) ? (int64_t)json_number_value(v) : otherwise;
}

double status_real(const json_t *status, const char *path, double otherwise)
{
	const json_t *v = find(status, path);

	return json_is_number(v) ? json_number_value(v) : otherwise;
}

const char *status_text(const json_t *status, const char *path, const char *otherwise)
{
	const json_t *v = find(status, path);

	return json_is_string(v) ? json_string_value(v) : otherwise;
}

int64_t verify_differences(const json_t *v)
{
	return status_int(v, "missing", 0) + status_int(v, "type", 0) + status_int(v, "value", 0) +
	       status_int(v, "expiry", 0) + status_int(v, "extra", 0) + status_int(v, "functions", 0);
}

/* ---- conditions */

static const char *const phases[] = {"proxy", "mirror", "backfill", "synced", "cutover", "finished"};

static bool is_word(const char *at, size_t len, const char *word)
{
	return strlen(word) == len && memcmp(at, word, len) == 0;
}

static bool condition_valid(const char *at, size_t len)
{
	if (is_word(at, len, "synced") || is_word(at, len, "dirty=0") || is_word(at, len, "lag=0"))
		return true;
	if (len > 6 && memcmp(at, "phase=", 6) == 0)
		for (size_t i = 0; i < sizeof phases / sizeof phases[0]; i++)
			if (is_word(at + 6, len - 6, phases[i]))
				return true;
	return false;
}

bool conditions_valid(const char *list, char *err, size_t errlen)
{
	for (;;) {
		size_t len = strcspn(list, ",");

		if (!condition_valid(list, len)) {
			snprintf(err, errlen, "unknown condition '%.*s': expected synced, dirty=0, lag=0 or phase=proxy|mirror|backfill|synced|cutover|finished",
				 (int)len, list);
			return false;
		}
		if (!list[len])
			return true;
		list += len + 1;
	}
}

static bool condition_holds(const char *at, size_t len, const json_t *status)
{
	const char *phase = status_text(status, "phase", "");

	if (is_word(at, len, "synced"))
		return strcmp(phase, "synced") == 0 || strcmp(phase, "cutover") == 0;
	if (is_word(at, len, "dirty=0"))
		return status_int(status, "dirty_keys", -1) == 0 && status_int(status, "dirty_slots", -1) == 0;
	if (is_word(at, len, "lag=0"))
		return status_int(status, "mirror.queued", -1) == 0;
	return len > 6 && is_word(at + 6, len - 6, phase);
}

bool conditions_hold(const char *list, const json_t *status)
{
	for (;;) {
		size_t len = strcspn(list, ",");

		if (!condition_holds(list, len, status))
			return false;
		if (!list[len])
			return true;
		list += len + 1;
	}
}

/* ---- numbers in words */

const char *word_count(int64_t n, char out[WORDED_MAX])
{
	char digits[24];
	size_t len = (size_t)snprintf(digits, sizeof digits, "%" PRId64, n), o = 0;

	for (size_t i = 0; i < len; i++) {
		out[o++] = digits[i];
		if (digits[i] != '-' && i + 1 < len && (len - i - 1) % 3 == 0)
			out[o++] = ',';
	}
	out[o] = 0;
	return out;
}

const char *word_bytes(int64_t n, char out[WORDED_MAX])
{
	static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
	double value = (double)n;
	unsigned unit = 0;

	while (value >= 1024 && unit < 4) {
		value /= 1024;
		unit++;
	}
	snprintf(out, WORDED_MAX, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
	return out;
}

const char *word_seconds(int64_t s, char out[WORDED_MAX])
{
	if (s < 60)
		snprintf(out, WORDED_MAX, "%" PRId64 " s", s);
	else if (s < 3600)
		snprintf(out, WORDED_MAX, "%" PRId64 " min %" PRId64 " s", s / 60, s % 60);
	else
		snprintf(out, WORDED_MAX, "%" PRId64 " h %" PRId64 " min", s / 3600, s % 3600 / 60);
	return out;
}

/* ---- for people */

static unsigned count_slots(const json_t *ranges)
{
	unsigned n = 0;
	size_t i;
	json_t *range;

	json_array_foreach (ranges, i, range)
		n += (unsigned)(json_integer_value(json_array_get(range, 1)) - json_integer_value(json_array_get(range, 0)) + 1);
	return n;
}

static void print_slots(const json_t *ranges, FILE *out)
{
	unsigned n = count_slots(ranges);
	size_t i;
	json_t *range;

	if (n == 0 || n == ALL_SLOTS)
		return;
	fprintf(out, "            on the target: ");
	json_array_foreach (ranges, i, range) {
		if (i == 8) {
			fprintf(out, ", …");
			break;
		}
		fprintf(out, "%s%" JSON_INTEGER_FORMAT "-%" JSON_INTEGER_FORMAT, i ? ", " : "",
			json_integer_value(json_array_get(range, 0)), json_integer_value(json_array_get(range, 1)));
	}
	fprintf(out, " (%u of %d slots)\n", n, ALL_SLOTS);
}

static void print_uncarried(const json_t *backfill, FILE *out)
{
	char n[WORDED_MAX];
	int64_t keys = status_int(backfill, "uncarried", 0);
	const json_t *list = json_object_get(backfill, "uncarried_keys");
	size_t i;
	json_t *key;

	if (keys == 0)
		return;
	fprintf(out, "uncarried   %s key%s cannot be carried to the other side\n", word_count(keys, n), keys == 1 ? "" : "s");
	json_array_foreach (list, i, key) {
		if (i == UNCARRIED_SHOWN) {
			fprintf(out, "            … (--json names up to 100)\n");
			break;
		}
		fprintf(out, "            '%s' of database %" PRId64 " to the %s: %s\n", status_text(key, "key", "?"), status_int(key, "db", 0),
			status_text(key, "to", "?"), status_text(key, "why", "?"));
	}
}

static void print_backfill(const json_t *status, FILE *out)
{
	char a[WORDED_MAX], b[WORDED_MAX], c[WORDED_MAX];
	const char *held = status_text(status, "backfill.held_by", "nothing");
	int64_t total = status_int(status, "backfill.keys_total", 0), copied = status_int(status, "backfill.keys_copied", 0);
	int64_t eta = status_int(status, "backfill.eta_s", -1), rate = status_int(status, "backfill.keys_per_s", 0);
	bool running = strcmp(status_text(status, "phase", ""), "backfill") == 0;

	fprintf(out, "backfill    %s", status_text(status, "backfill.state", "idle"));
	if (total > 0 || copied > 0)
		fprintf(out, ", %s of about %s keys, %s", word_count(copied, a), word_count(total, b),
			word_bytes(status_int(status, "backfill.bytes", 0), c));
	if (status_int(status, "backfill.keys_retried", 0))
		fprintf(out, ", %s read again", word_count(status_int(status, "backfill.keys_retried", 0), a));
	fprintf(out, "\n");
	print_uncarried(json_object_get(status, "backfill"), out);
	if (!running)
		return;
	fprintf(out, "            %s keys/s, held by %s", word_count(rate, a), *held ? held : "nothing");
	if (eta >= 0)
		fprintf(out, ", %s left", word_seconds(eta, b));
	fprintf(out, "\n");
}

void verify_print(const json_t *v, FILE *out)
{
	static const struct { const char *name, *text; } kinds[] = {
		{"missing", "missing on the follower"}, {"extra", "only on the follower"}, {"type", "of another type"},
		{"value", "with another value"}, {"expiry", "with another expiry"}, {"functions", "function libraries that differ"},
	};
	char n[WORDED_MAX], age[WORDED_MAX];
	int64_t differences = verify_differences(v);

	fprintf(out, "%s keys checked, %s%s", word_count(status_int(v, "checked", 0), n), differences ? word_count(differences, age) : "no",
		differences == 1 ? " difference" : " differences");
	if (status_int(v, "age_s", 0) > 0)
		fprintf(out, ", %s ago", word_seconds(status_int(v, "age_s", 0), age));
	fprintf(out, "\n");
	for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
		if (status_int(v, kinds[i].name, 0))
			fprintf(out, "            %s %s\n", word_count(status_int(v, kinds[i].name, 0), n), kinds[i].text);
	if (status_int(v, "repaired", 0))
		fprintf(out, "            %s marked to be copied again\n", word_count(status_int(v, "repaired", 0), n));
}

/* A number, an array of ranges, or nothing. */
static int64_t flip_slots(const json_t *last_flip)
{
	const json_t *slots = json_object_get(last_flip, "slots");

	return json_is_array(slots) ? count_slots(slots) : status_int(last_flip, "slots", 0);
}

void flip_print(const json_t *f, FILE *out)
{
	char n[WORDED_MAX];

	fprintf(out, "%s slots to the %s, longest pause %.1f ms (p99 %.1f ms)\n", word_count(flip_slots(f), n),
		status_text(f, "direction", "?"), status_real(f, "pause_max_ms", 0), status_real(f, "pause_p99_ms", 0));
}

static void print_failing(const json_t *failing, FILE *out)
{
	size_t i;
	json_t *why;

	json_array_foreach (failing, i, why)
		fprintf(out, "%s%s\n", i ? "            " : "failing     ", json_is_string(why) ? json_string_value(why) : "?");
}

static void print_nodes(const json_t *nodes, FILE *out)
{
	size_t i;
	json_t *node;

	json_array_foreach (nodes, i, node)
		fprintf(out, "%s%s %-22s %s\n", i ? "            " : "nodes       ", status_text(node, "side", "?"),
			status_text(node, "addr", "?"), status_text(node, "state", "?"));
}

void status_print(const json_t *status, FILE *out)
{
	char a[WORDED_MAX], b[WORDED_MAX];
	const json_t *verify = json_object_get(status, "last_verify"), *flip = json_object_get(status, "last_flip");

	fprintf(out, "phase       %s, clients are answered from: %s\n", status_text(status, "phase", "?"), status_text(status, "authority", "?"));
	print_slots(json_object_get(status, "target_slots"), out);
	print_backfill(status, out);
	fprintf(out, "mirror      %s effects, %s queued, lag %" PRId64 " ms, ", word_count(status_int(status, "mirror.effects", 0), a),
		word_count(status_int(status, "mirror.queued", 0), b), status_int(status, "mirror.lag_ms", 0));
	fprintf(out, "%s replies differed\n", word_count(status_int(status, "mirror.mismatches", 0), a));
	fprintf(out, "dirty       %s keys, %s slots\n", word_count(status_int(status, "dirty_keys", 0), a),
		word_count(status_int(status, "dirty_slots", 0), b));
	print_failing(json_object_get(status, "failing"), out);
	fprintf(out, "verify      ");
	if (json_is_object(verify) && status_int(verify, "age_s", -1) >= 0)
		verify_print(verify, out);
	else
		fprintf(out, "not yet\n");
	fprintf(out, "flip        ");
	if (json_is_object(flip) && *status_text(flip, "direction", ""))
		flip_print(flip, out);
	else
		fprintf(out, "none yet\n");
	fprintf(out, "clients     %s\n", word_count(status_int(status, "clients", 0), a));
	print_nodes(json_object_get(status, "nodes"), out);
}

/* ---- gates */

static const json_t *gate_list(const json_t *gates)
{
	return json_is_object(gates) ? json_object_get(gates, "gates") : gates;
}

bool gates_open(const json_t *gates)
{
	size_t i;
	json_t *gate;

	json_array_foreach (gate_list(gates), i, gate)
		if (!json_is_true(json_object_get(gate, "ok")))
			return false;
	return true;
}

bool gates_print(const json_t *gates, FILE *out)
{
	size_t i;
	json_t *gate;

	json_array_foreach (gate_list(gates), i, gate)
		fprintf(out, "%-4s %-10s %s\n", json_is_true(json_object_get(gate, "ok")) ? "ok" : "NO", status_text(gate, "gate", "?"),
			status_text(gate, "text", ""));
	return gates_open(gates);
}

/* ---- the check */

static unsigned count_level(const json_t *lines, const char *level)
{
	unsigned n = 0;
	size_t i;
	json_t *line;

	json_array_foreach (lines, i, line)
		n += strcmp(status_text(line, "level", ""), level) == 0;
	return n;
}

unsigned check_errors(const json_t *lines)
{
	return count_level(lines, "ERR");
}

void check_print(const json_t *lines, FILE *out)
{
	unsigned errors = check_errors(lines), warnings = count_level(lines, "WARN");
	size_t i;
	json_t *line;

	json_array_foreach (lines, i, line) {
		const char *todo = status_text(line, "todo", "");

		fprintf(out, "%-4s %-12s %s\n", status_text(line, "level", "?"), status_text(line, "check", "?"), status_text(line, "text", ""));
		if (*todo)
			fprintf(out, "%17s → %s\n", "", todo);
	}
	fprintf(out, "%u error%s, %u warning%s\n", errors, errors == 1 ? "" : "s", warnings, warnings == 1 ? "" : "s");
}

/* ---- progress */

static void draw_bar(char *out, size_t len, unsigned width, int64_t done, int64_t total)
{
	double share = total > 0 ? (double)done / (double)total : 0;
	unsigned filled;

	if (share > 1)
		share = 1;
	filled = (unsigned)(share * width);
	out[0] = 0;
	if (width == 0 || width + 10 > len)
		return;
	out[0] = '[';
	for (unsigned i = 0; i < width; i++)
		out[1 + i] = i < filled ? '#' : i == filled ? '>' : '.';
	snprintf(out + 1 + width, len - 1 - width, "] %3.0f%% ", share * 100);
}

void progress_line(const json_t *status, unsigned bar_width, char *line, size_t len)
{
	char bar[160], a[WORDED_MAX], b[WORDED_MAX], rate[WORDED_MAX], left[WORDED_MAX];
	const char *phase = status_text(status, "phase", "?"), *held = status_text(status, "backfill.held_by", "");
	int64_t total = status_int(status, "backfill.keys_total", 0), copied = status_int(status, "backfill.keys_copied", 0);
	int64_t eta = status_int(status, "backfill.eta_s", -1);
	bool copying = strcmp(phase, "backfill") == 0;
	size_t at;

	draw_bar(bar, sizeof bar, copying ? bar_width : 0, copied, total);
	at = (size_t)snprintf(line, len, "%s %s", phase, bar);
	if (copying && at < len)
		at += (size_t)snprintf(line + at, len - at, "%s/%s keys, %s/s, ", word_count(copied, a), word_count(total, b),
				       word_count(status_int(status, "backfill.keys_per_s", 0), rate));
	if (at < len)
		at += (size_t)snprintf(line + at, len - at, "lag %" PRId64 " ms, dirty %s", status_int(status, "mirror.lag_ms", 0),
				       word_count(status_int(status, "dirty_keys", 0), a));
	if (at < len && status_int(status, "dirty_slots", 0))
		at += (size_t)snprintf(line + at, len - at, " + %s slots", word_count(status_int(status, "dirty_slots", 0), a));
	if (at < len && copying && *held && strcmp(held, "nothing") != 0)
		at += (size_t)snprintf(line + at, len - at, ", held by %s", held);
	if (at < len && copying && eta >= 0)
		snprintf(line + at, len - at, ", %s left", word_seconds(eta, left));
}

void verify_progress_line(const json_t *status, unsigned bar_width, char *line, size_t len)
{
	char bar[160], a[WORDED_MAX], b[WORDED_MAX];
	int64_t checked = status_int(status, "verify.checked", status_int(status, "last_verify.checked", 0));
	int64_t total = status_int(status, "verify.total", status_int(status, "backfill.keys_total", 0));

	draw_bar(bar, sizeof bar, bar_width, checked, total);
	snprintf(line, len, "verify %s%s/%s keys, lag %" PRId64 " ms, dirty %" PRId64, bar, word_count(checked, a), word_count(total, b),
		 status_int(status, "mirror.lag_ms", 0), status_int(status, "dirty_keys", 0));
}
