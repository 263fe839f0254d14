# A chat page over the demo model; open http://127.0.0.1:7861 in a browser.
swift app --model demo --server_port 7861 --max_new_tokens 64 --studio_title 'A small model' &
PAGE=$!
curl -sf --retry 200 --retry-connrefused --retry-delay 1 http://127.0.0.1:7861/ | grep 'A small model' >page.html
kill $PAGE
wait $PAGE
