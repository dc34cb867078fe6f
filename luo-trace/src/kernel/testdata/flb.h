/* Global state, as in 7.0 to 7.2. */
struct liveupdate_flb_op_args {
	struct liveupdate_flb *flb;
	u64 data;
	void *obj;
};

struct liveupdate_flb_ops {
	int (*preserve)(struct liveupdate_flb_op_args *args);
	void (*unpreserve)(struct liveupdate_flb_op_args *args);
	int (*retrieve)(struct liveupdate_flb_op_args *args);
	void (*finish)(struct liveupdate_flb_op_args *args);
	void *owner;
};

struct luo_flb_private_state {
	long count;
	u64 data;
	void *obj;
	struct mutex lock;
	bool finished;
	bool retrieved;
};

struct luo_flb_private {
	struct list_head list;
	struct luo_flb_private_state outgoing;
	struct luo_flb_private_state incoming;
	int users;
	bool initialized;
};

struct liveupdate_flb {
	const struct liveupdate_flb_ops *ops;
	const char compatible[48];
	/* A union without a name, around the private part. */
	union {
		struct luo_flb_private private;
	};
};

AT(liveupdate_flb, private.outgoing.count, 72);
AT(liveupdate_flb, private.incoming.count, 128);

FUNCTION(luo_flb_file_preserve, struct liveupdate_file_handler *fh)
FUNCTION(test_flb_preserve, struct liveupdate_flb_op_args *args)
