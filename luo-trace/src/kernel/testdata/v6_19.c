/* The layouts of Linux 6.19: no global state, a flag where later kernels have a status, one array of files for a session. */
#include "common.h"

struct liveupdate_file_handler {
	const struct liveupdate_file_ops *ops;
	const char compatible[48];
	struct list_head list;
};

struct liveupdate_file_op_args {
	struct liveupdate_file_handler *handler;
	bool retrieved;
	struct file *file;
	u64 serialized_data;
	void *private_data;
};

struct liveupdate_file_ops {
	bool (*can_preserve)(struct liveupdate_file_handler *handler, struct file *file);
	int (*preserve)(struct liveupdate_file_op_args *args);
	void (*unpreserve)(struct liveupdate_file_op_args *args);
	int (*freeze)(struct liveupdate_file_op_args *args);
	void (*unfreeze)(struct liveupdate_file_op_args *args);
	int (*retrieve)(struct liveupdate_file_op_args *args);
	bool (*can_finish)(struct liveupdate_file_op_args *args);
	void (*finish)(struct liveupdate_file_op_args *args);
	void *owner;
};

struct luo_file {
	struct liveupdate_file_handler *fh;
	struct file *file;
	u64 serialized_data;
	void *private_data;
	bool retrieved;
	struct mutex mutex;
	struct list_head list;
	u64 token;
};

struct luo_file_set {
	struct list_head files_list;
	struct luo_file_ser *files;
	u64 count;
};

struct luo_session {
	char name[64];
	struct luo_session_ser *ser;
	struct list_head list;
	bool retrieved;
	struct luo_file_set file_set;
	struct mutex mutex;
};

struct luo_session_header {
	long count;
	struct list_head list;
	struct rw_semaphore rwsem;
	struct luo_session_header_ser *header_ser;
	struct luo_session_ser *ser;
	bool active;
};

struct luo_session_global {
	struct luo_session_header incoming;
	struct luo_session_header outgoing;
};

AT(luo_session, list, 72);
AT(luo_session, retrieved, 88);
AT(luo_session, file_set, 96);
AT(luo_file_set, count, 24);
AT(luo_file, token, 80);
AT(liveupdate_file_op_args, file, 16);
AT(luo_session_header, active, 72);
AT(luo_session_global, outgoing, 80);

FUNCTIONS_OF_ALL
