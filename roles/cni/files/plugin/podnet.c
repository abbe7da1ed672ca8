// SPDX-License-Identifier: GPL-3.0-or-later
/*
 * podnet: the CNI plugin of podnet.datapath, a client of podnet-agent.
 *
 * A container runtime runs it for each operation on a Pod. The agent does all
 * the work, so that starting a Pod does not start an interpreter. The plugin
 * passes the request on and prints the response:
 *
 *   request   the CNI variables that are set, as NAME=value, each ended by NUL;
 *             an empty string; standard input; then the writing side is shut down
 *   response  the exit status in decimal, a newline, standard output; then EOF
 *
 * Nothing is printed before the response is complete. The plugin has no state:
 * it may be killed at any point, and the runtime calls DEL afterwards. It reports
 * its own errors as CNI requires: JSON on standard output, exit status 1.
 */

#define _GNU_SOURCE	/* struct ucred */

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <stdnoreturn.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define AGENT_SOCKET	"/run/podnet/agent.sock"
#define MESSAGE_MAX	1048576		/* bytes of a request or a response */
#define VARIABLE_MAX	16384
#define ERROR_MAX	512
#ifndef TIMEOUT
#define TIMEOUT		120		/* seconds for the whole operation; the tests shorten it */
#endif

#define ARRAY_SIZE(array)	(sizeof(array) / sizeof((array)[0]))

#define VERSION_RESULT	\
	"{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n"

/* Error codes of the CNI specification */
enum cni_code {
	CNI_VARIABLE = 4,		/* invalid environment variable */
	CNI_IO = 5,
	CNI_DECODE = 6,
	CNI_TRY_AGAIN = 11,
	CNI_UNAVAILABLE = 50,		/* answer to STATUS: ADD would fail */
};

static const char *const cni_variables[] = {
	"CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH",
};

static const char *const agent_commands[] = { "ADD", "DEL", "CHECK", "GC", "STATUS" };

static const char *command;
static const char *agent_socket;
static struct timespec deadline;

struct message {
	size_t len;
	char data[MESSAGE_MAX + 1];	/* one byte more, to notice an excess */
};

static struct message request, response;

static int remaining_ms(void)
{
	struct timespec now;
	long ms;

	clock_gettime(CLOCK_MONOTONIC, &now);
	ms = (deadline.tv_sec - now.tv_sec) * 1000 + (deadline.tv_nsec - now.tv_nsec) / 1000000;
	return ms > 0 ? ms : 0;
}

/* Wait until @fd is ready. Returns -1 with errno ETIMEDOUT at the deadline. */
static int wait_ready(int fd, short events)
{
	struct pollfd pollfd = { .fd = fd, .events = events };
	int ready;

	do {
		ready = poll(&pollfd, 1, remaining_ms());
	} while (ready < 0 && errno == EINTR);
	if (!ready)
		errno = ETIMEDOUT;
	return ready > 0 ? 0 : -1;
}

/* Append to @message what @fd has until EOF. Returns -EMSGSIZE for an excess. */
static int read_all(int fd, struct message *message)
{
	char *data = message->data;
	ssize_t n;

	do {
		n = wait_ready(fd, POLLIN);
		if (!n)
			n = read(fd, data + message->len, sizeof(message->data) - message->len);
		if (n > 0)
			message->len += n;
		else if (n < 0 && errno != EINTR && errno != EAGAIN)
			return -errno;
		if (message->len > MESSAGE_MAX)
			return -EMSGSIZE;
	} while (n);
	return 0;
}

/* Has no deadline, because an error is reported after it. */
static void print(const char *data, size_t len)
{
	struct pollfd pollfd = { .fd = STDOUT_FILENO, .events = POLLOUT };
	ssize_t n;

	for (; len; len -= n, data += n) {
		n = write(STDOUT_FILENO, data, len);
		if (n >= 0)
			continue;
		if (errno != EINTR && errno != EAGAIN) {
			fprintf(stderr, "podnet: standard output: %s\n", strerror(errno));
			exit(EXIT_FAILURE);
		}
		poll(&pollfd, 1, -1);
		n = 0;
	}
}

static noreturn void print_error(enum cni_code code, const char *text)
{
	char json[6 * ERROR_MAX + 64];
	size_t len;

	len = sprintf(json, "{\"cniVersion\":\"1.0.0\",\"code\":%d,\"msg\":\"", code);
	for (; *text; text++) {
		/* Also bytes beyond ASCII: they need not be valid UTF-8. */
		bool plain = *text >= ' ' && *text <= '~' && *text != '"' && *text != '\\';

		len += sprintf(json + len, plain ? "%c" : "\\u%04x", (unsigned char)*text);
	}
	len += sprintf(json + len, "\"}\n");
	print(json, len);
	exit(EXIT_FAILURE);
}

#define cni_fail(code, ...)								\
	do {										\
		char text[ERROR_MAX];							\
											\
		snprintf(text, sizeof(text), __VA_ARGS__);				\
		print_error(code, text);						\
	} while (0)

/* Tell the runtime to try again, or in response to STATUS that ADD would fail. */
#define agent_fail(format, ...)								\
	cni_fail(strcmp(command, "STATUS") ? CNI_TRY_AGAIN : CNI_UNAVAILABLE,		\
		 "agent socket %s: " format "; check systemctl status podnet-agent",	\
		 agent_socket, ##__VA_ARGS__)

static void read_command(void)
{
	command = getenv("CNI_COMMAND");
	if (!command || !*command) {
		fprintf(stderr, "podnet: a CNI plugin, run by container runtimes\n"
			"CNI protocol versions supported: 0.4.0, 1.0.0, 1.1.0\n");
		cni_fail(CNI_VARIABLE, "CNI_COMMAND is not set");
	}
	if (!strcmp(command, "VERSION")) {
		print(VERSION_RESULT, strlen(VERSION_RESULT));
		exit(EXIT_SUCCESS);
	}
	for (size_t i = 0; i < ARRAY_SIZE(agent_commands); i++)
		if (!strcmp(command, agent_commands[i]))
			return;
	cni_fail(CNI_VARIABLE,
		 "CNI_COMMAND: unknown command %.64s; use ADD, DEL, CHECK, GC, STATUS or VERSION",
		 command);
}

static void read_request(void)
{
	int error;

	for (size_t i = 0; i < ARRAY_SIZE(cni_variables); i++) {
		const char *name = cni_variables[i], *value = getenv(name);

		if (!value)
			continue;
		if (strlen(value) > VARIABLE_MAX)
			cni_fail(CNI_VARIABLE, "%s: %zu bytes exceed the maximum of %d",
				 name, strlen(value), VARIABLE_MAX);
		/* All variables together fit. The NUL is part of the request. */
		request.len += 1 + sprintf(request.data + request.len, "%s=%s", name, value);
	}
	request.data[request.len++] = '\0';

	error = read_all(STDIN_FILENO, &request);
	if (error == -EMSGSIZE)
		cni_fail(CNI_DECODE, "standard input: the request exceeds the maximum of %d bytes",
			 MESSAGE_MAX);
	if (error)
		cni_fail(CNI_IO, "standard input: %s", strerror(-error));
}

static int agent_connect(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct ucred peer;
	socklen_t len = sizeof(peer);
	struct timeval timeout;
	int fd, ms;

	if (strlen(agent_socket) >= sizeof(address.sun_path))
		cni_fail(CNI_VARIABLE, "PODNET_AGENT_SOCKET: %zu bytes exceed the maximum of %zu",
			 strlen(agent_socket), sizeof(address.sun_path) - 1);
	strcpy(address.sun_path, agent_socket);

	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		agent_fail("cannot create a socket: %s", strerror(errno));
	/* poll() does not wait for room in the backlog of a unix socket, connect() does. */
	do {
		ms = remaining_ms();
		if (!ms)
			agent_fail("cannot connect: %s", strerror(ETIMEDOUT));
		timeout = (struct timeval){ .tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000 };
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
		if (!connect(fd, (struct sockaddr *)&address, sizeof(address)))
			break;
		if (errno != EINTR && errno != EAGAIN)
			agent_fail("cannot connect: %s", strerror(errno));
	} while (true);

	/* Whoever may write to the directory could listen in the agent's place. */
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len))
		agent_fail("cannot identify the agent: %s", strerror(errno));
	if (peer.uid)
		agent_fail("user %u listens there instead of root", peer.uid);
	return fd;
}

static void agent_call(void)
{
	int fd = agent_connect(), error;
	ssize_t n;

	for (size_t sent = 0; sent < request.len;) {
		n = wait_ready(fd, POLLOUT);
		if (!n)
			n = send(fd, request.data + sent, request.len - sent, MSG_DONTWAIT);
		if (n > 0)
			sent += n;
		else if (n < 0 && errno != EINTR && errno != EAGAIN)
			agent_fail("cannot send the request: %s", strerror(errno));
	}
	if (shutdown(fd, SHUT_WR))
		agent_fail("cannot send the request: %s", strerror(errno));
	error = read_all(fd, &response);
	if (error)
		agent_fail("no complete response: %s", strerror(-error));
	close(fd);
}

/*
 * Whether the text from @c to @end extends to the end of one JSON object. That of
 * an agent which is killed while it responds does not. The runtime checks the rest.
 */
static bool json_is_complete(const char *c, const char *end)
{
	bool string = false;
	int depth = 0;

	if (*c != '{')
		return false;
	do {
		if (string && *c == '\\')
			c++;
		else if (*c == '"')
			string = !string;
		else if (!string)
			depth += (*c == '{') - (*c == '}');
		c++;
	} while (depth && c < end);
	while (c < end && (*c == '\n' || *c == ' '))
		c++;
	return !depth && c == end;
}

/* Returns the exit status, and in @body what follows it. */
static int parse_response(const char **body)
{
	const char *c = response.data, *end = c + response.len;
	bool valid;
	int status = 0;

	while (c < end && c < response.data + 3 && *c >= '0' && *c <= '9')
		status = 10 * status + *c++ - '0';
	valid = c > response.data && c < end && *c++ == '\n' && status <= 255;
	/* Without a body: success of an operation that has no result */
	if (valid && c == end)
		valid = !status && strcmp(command, "ADD");
	else if (valid)
		valid = json_is_complete(c, end);
	if (!valid)
		agent_fail("invalid or truncated response");
	*body = c;
	return status;
}

int main(void)
{
	const char *body;
	int status;

	signal(SIGPIPE, SIG_IGN);
	clock_gettime(CLOCK_MONOTONIC, &deadline);
	deadline.tv_sec += TIMEOUT;
	agent_socket = getenv("PODNET_AGENT_SOCKET");
	if (!agent_socket || !*agent_socket)
		agent_socket = AGENT_SOCKET;

	read_command();
	read_request();
	agent_call();
	status = parse_response(&body);
	print(body, response.data + response.len - body);
	return status;
}
