"""Child processes of the service, such as checks, chats and exports: bounded, and supervised."""
