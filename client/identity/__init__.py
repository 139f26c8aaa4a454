"""Who this client is: key, enrolment, and the renewal of its certificate."""
