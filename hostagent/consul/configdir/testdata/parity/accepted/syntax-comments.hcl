# one
// two
/* three
   service { name = "not-one" } */
service { # four
  name = "web" // five
  port = 8080 /* six */
}
