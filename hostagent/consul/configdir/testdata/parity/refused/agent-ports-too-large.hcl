ports { http = 65536 }
